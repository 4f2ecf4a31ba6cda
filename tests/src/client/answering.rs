//! The client's side of server-to-client requests: fixed, recognisable answers.
#![expect(deprecated, reason = "sampling is deprecated in the protocol and still in use")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rmcp::model::{
    ClientCapabilities, ClientConfig, CreateMessageRequestParams, CreateMessageResult, ElicitRequestParams,
    ElicitResult, ElicitationAction, Implementation, ProgressNotificationParam, SamplingMessage,
};
use rmcp::service::{NotificationContext, RequestContext, RoleClient};
use rmcp::{ClientHandler, ErrorData};
use serde_json::json;

use super::Seen;

pub(super) struct Answering(Arc<Seen>);

impl Answering {
    pub(super) fn new(seen: Arc<Seen>) -> Self {
        Self(seen)
    }
}

impl ClientHandler for Answering {
    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder().enable_sampling().enable_elicitation().build();
        ClientConfig::new(capabilities, Implementation::new("rust-client", env!("CARGO_PKG_VERSION")))
    }

    async fn create_message(
        &self,
        _params: CreateMessageRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        Ok(CreateMessageResult::new(SamplingMessage::assistant_text("sampled words"), "fixture".into()))
    }

    async fn create_elicitation(
        &self,
        _request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let form = json!({"name": "Ada", "username": "Ada", "email": "ada@customers.example", "check": true});
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(form))
    }

    async fn on_progress(
        &self,
        _params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.0.progress.send_modify(|seen| *seen += 1);
    }
}
