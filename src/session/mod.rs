//! Sessions: which session of a client is which of the upstream.

mod id;
mod memory;
mod store;

#[cfg(feature = "testing")]
pub mod testing;

pub use id::{MalformedId, Owner, SessionId, UpstreamId, UpstreamKey};
pub use memory::MemoryStore;
pub use store::{NewSession, Session, SessionRequest, SessionStore};

pub(crate) use store::AnyStore;
