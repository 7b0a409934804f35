import { connect, PerdureError, WorkflowFailed } from "perdure";

const client = connect("127.0.0.1:7373");
try {
  console.log(await client.call<string>("greet", { name: "Ana" }));
} catch (error) {
  if (error instanceof PerdureError) console.error(`refused, ${error.reason}: ${error.message}`);
  else if (error instanceof WorkflowFailed) console.error(`it raised ${error.type}: ${error.message}`);
  else throw error;
}
