//! The report of a healed session.

use std::fmt;

use super::{Owner, SessionId};

/// The report of a healed MCP session. [`HealLayer::on_healed`](crate::profile::heal::HealLayer::on_healed) and
/// [`StreamObserver::healed`](crate::observe::StreamObserver::healed) receive it. It is also in the extensions of each response to a
/// request that got 404.
///
/// The upstream has a new session. Its state in the old one is lost: subscriptions to resources, the log level, running calls.
#[derive(Clone, PartialEq, Eq)]
pub struct Healed {
    pub(crate) session: SessionId,
    pub(crate) owner: Owner,
    pub(crate) had_subscriptions: bool,
}

impl Healed {
    /// The session id of the client. It is a secret.
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// The owner of the session.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Whether the client has sent a `resources/subscribe` since the upstream opened the session that is lost. The client gets no
    /// `notifications/resources/updated` until it subscribes again.
    pub fn had_subscriptions(&self) -> bool {
        self.had_subscriptions
    }
}

impl fmt::Debug for Healed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Healed")
            .field("had_subscriptions", &self.had_subscriptions)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_session_nor_owner() {
        let healed = Healed {
            session: SessionId::parse("canary").unwrap(),
            owner: Owner::ANONYMOUS,
            had_subscriptions: true,
        };
        assert_eq!(
            format!("{healed:?}"),
            "Healed { had_subscriptions: true, .. }"
        );
    }
}
