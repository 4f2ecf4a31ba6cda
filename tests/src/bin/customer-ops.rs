//! A sample "customer operations" MCP server: four tools on data in memory. It knows nothing of the guard.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use clap::Parser;
use guard_tests::journal::Journal;
use guard_tests::serve::{Listen, serve};
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock, Implementation, ServerCapabilities, ServerConfig};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::{ServerHandler, schemars, tool, tool_handler, tool_router};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Sample MCP server with the tools `read_customer`, `update_account`, `process_refund` and `send_email`
#[derive(Parser)]
#[command(name = "customer-ops")]
struct Options {
    #[command(flatten)]
    listen: Listen,
    /// Append one JSON line per executed call to this file instead of stderr
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
struct ReadCustomer {
    /// The customer's id, such as `C-1001`
    customer_id: String,
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
struct UpdateAccount {
    customer_id: String,
    /// The fields to change and their new values
    fields: Map<String, Value>,
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
struct ProcessRefund {
    customer_id: String,
    /// Amount in euros
    amount: f64,
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
struct SendEmail {
    /// Recipients' addresses
    to: Vec<String>,
    subject: String,
    body: String,
}

#[derive(Clone)]
struct CustomerOps {
    customers: Arc<Mutex<BTreeMap<String, Map<String, Value>>>>,
    journal: Journal,
}

#[tool_router]
impl CustomerOps {
    #[tool(description = "Read a customer's record", annotations(read_only_hint = true))]
    fn read_customer(&self, Parameters(call): Parameters<ReadCustomer>) -> CallToolResult {
        self.journal.record("read_customer", &call);
        match self.customers.lock().expect("no holder panics").get(&call.customer_id) {
            Some(record) => said(&Value::Object(record.clone())),
            None => unknown(&call.customer_id),
        }
    }

    #[tool(description = "Change fields of a customer's account")]
    fn update_account(&self, Parameters(call): Parameters<UpdateAccount>) -> CallToolResult {
        self.journal.record("update_account", &call);
        match self.customers.lock().expect("no holder panics").get_mut(&call.customer_id) {
            Some(record) => {
                let changed: Vec<_> = call.fields.keys().cloned().collect();
                record.extend(call.fields);
                said(&json!({"customer_id": call.customer_id, "changed": changed}))
            }
            None => unknown(&call.customer_id),
        }
    }

    #[tool(description = "Refund an amount to a customer")]
    fn process_refund(&self, Parameters(call): Parameters<ProcessRefund>) -> CallToolResult {
        self.journal.record("process_refund", &call);
        if call.amount <= 0.0 {
            return CallToolResult::error(vec![ContentBlock::text(
                "the amount of a refund must be positive",
            )]);
        }
        match self.customers.lock().expect("no holder panics").get_mut(&call.customer_id) {
            Some(record) => {
                let refunded =
                    record.get("refunded_eur").and_then(Value::as_f64).unwrap_or(0.0) + call.amount;
                record.insert("refunded_eur".into(), refunded.into());
                said(&json!({"customer_id": call.customer_id, "refund_eur": call.amount, "state": "booked"}))
            }
            None => unknown(&call.customer_id),
        }
    }

    #[tool(description = "Send an e-mail")]
    fn send_email(&self, Parameters(call): Parameters<SendEmail>) -> CallToolResult {
        self.journal.record("send_email", &call);
        said(&json!({"accepted": call.to.len(), "subject": call.subject, "state": "queued"}))
    }
}

#[tool_handler]
impl ServerHandler for CustomerOps {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("customer-ops", env!("CARGO_PKG_VERSION")))
            .with_instructions("Customer records, accounts, refunds and e-mail.")
    }
}

fn said(reply: &Value) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(reply.to_string())])
}

fn unknown(customer_id: &str) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(format!("there is no customer {customer_id}"))])
}

/// Five customers, `C-1001` to `C-1005`.
fn sample_customers() -> BTreeMap<String, Map<String, Value>> {
    let rows = [
        ("Ada Brandt", "gold", 12),
        ("Bruno Castell", "standard", 3),
        ("Chiara Dorn", "gold", 41),
        ("Dmitri Eld", "standard", 1),
        ("Elif Franke", "trial", 0),
    ];
    (1001..)
        .zip(rows)
        .map(|(number, (name, plan, orders))| {
            let id = format!("C-{number}");
            let email = format!("{}@customers.example", name.to_lowercase().replace(' ', "."));
            let record =
                json!({"customer_id": id, "name": name, "email": email, "plan": plan, "orders": orders});
            let Value::Object(record) = record else { unreachable!("json! made an object") };
            (id, record)
        })
        .collect()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let journal = Journal::open(options.journal.as_deref())?;
    let handler = CustomerOps { customers: Arc::new(Mutex::new(sample_customers())), journal };
    serve(&options.listen, handler, Arc::<LocalSessionManager>::default()).await
}
