"""One module a subject: takes a request, gives an answer, raises errors of `perdure.errors`."""
