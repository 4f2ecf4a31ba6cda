//! "The list changed", told to every open `subscriptions/listen` stream that asked for it.

use rmcp::service::SubscriptionContext;
use tokio::sync::broadcast;

/// Which list changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Tools,
    Prompts,
}

/// Changes a slow listener may fall behind before it loses some.
const CHANGES_QUEUED_MAX: usize = 64;

#[derive(Clone)]
pub(super) struct Changes(broadcast::Sender<Change>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::channel(CHANGES_QUEUED_MAX).0)
    }
}

impl Changes {
    pub(super) fn announce(&self, change: Change) {
        // An error only says that nobody listens.
        let _ = self.0.send(change);
    }

    /// Passes changes on until the client closes the stream.
    pub(super) async fn follow(&self, subscription: &SubscriptionContext) {
        let mut changes = self.0.subscribe();
        loop {
            let change = tokio::select! {
                () = subscription.cancelled() => return,
                change = changes.recv() => change,
            };
            // A change of a kind that this stream did not ask for is refused by the sink.
            let _ = match change {
                Ok(Change::Tools) => subscription.sink().notify_tool_list_changed().await,
                Ok(Change::Prompts) => subscription.sink().notify_prompt_list_changed().await,
                Err(broadcast::error::RecvError::Lagged(_)) => Ok(()),
                Err(broadcast::error::RecvError::Closed) => return,
            };
        }
    }
}
