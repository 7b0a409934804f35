"""Words that every room shares: views, limits, settings, clocks."""
