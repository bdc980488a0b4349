//! Sessions: which session of a client is which of the upstream.

mod id;
mod memory;
#[cfg(feature = "sealed")]
mod sealed;
mod store;

#[cfg(feature = "testing")]
pub mod testing;

pub use id::{MalformedId, Owner, SessionId, UpstreamId, UpstreamKey};
pub use memory::MemoryStore;
#[cfg(feature = "sealed")]
pub use sealed::{MalformedKey, SealError, SealedKey, SealedStore};
pub use store::{NewSession, Session, SessionRequest, SessionStore};

pub(crate) use store::AnyStore;
