//! Taps: copies of the blocks of a stream for an operator.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use tokio::sync::mpsc;

/// The maximum number of blocks that wait for the reader of a tap. Further blocks are lost for the tap; the stream never waits for it.
const CAPACITY: usize = 1024;

/// A block of a tapped stream.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TappedBlock {
    /// Whether the block came from the upstream, or went to the clients.
    pub side: TapSide,
    /// The bytes of the block.
    pub raw: Bytes,
    /// How many blocks the tap has lost before this one, because it was not read fast enough.
    pub lost: u64,
}

/// Where a tapped block was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TapSide {
    /// Before the interceptors.
    Upstream,
    /// After the interceptors: what clients get. The ids of recorded streams are included.
    Client,
}

/// A copy of what passes a stream from now on. See [`Streams::tap`](crate::Streams::tap).
///
/// A tap is lossy: it holds 1,024 blocks at most, and loses further blocks until they are read. It neither delays nor ends the stream.
pub struct Tap {
    blocks: mpsc::Receiver<TappedBlock>,
}

impl Tap {
    /// Waits for the next block. Returns `None` when the stream has ended.
    ///
    /// This method is cancel safe.
    pub async fn next(&mut self) -> Option<TappedBlock> {
        self.blocks.recv().await
    }
}

/// The taps of one stream.
pub(crate) struct Taps {
    /// Whether any tap is open. While this is false, the stream need not lock `open`.
    any: AtomicBool,
    /// `None` after the end of the stream.
    open: Mutex<Option<Vec<OpenTap>>>,
}

struct OpenTap {
    blocks: mpsc::Sender<TappedBlock>,
    lost: u64,
}

impl Default for Taps {
    fn default() -> Self {
        Self {
            any: AtomicBool::new(false),
            open: Mutex::new(Some(Vec::new())),
        }
    }
}

impl Taps {
    /// Adds a tap. Returns `None` after the end of the stream.
    pub(crate) fn open(&self) -> Option<Tap> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, blocks) = mpsc::channel(CAPACITY);
        open.as_mut()?.push(OpenTap {
            blocks: sender,
            lost: 0,
        });
        self.any.store(true, Relaxed);
        Some(Tap { blocks })
    }

    /// Whether any tap is open.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// Gives a block to all taps.
    pub(crate) fn send(&self, side: TapSide, raw: &Bytes) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &mut *open else { return };
        open.retain_mut(|tap| {
            let block = TappedBlock {
                side,
                raw: raw.clone(),
                lost: tap.lost,
            };
            match tap.blocks.try_send(block) {
                Ok(()) => tap.lost = 0,
                Err(mpsc::error::TrySendError::Full(_)) => tap.lost += 1,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
            true
        });
        self.any.store(!open.is_empty(), Relaxed);
    }

    /// Ends all taps.
    pub(super) fn close(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = None;
        self.any.store(false, Relaxed);
    }
}

/// Shows the side and the size of the block, not its text.
impl fmt::Debug for TappedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TappedBlock")
            .field("side", &self.side)
            .field("bytes", &self.raw.len())
            .field("lost", &self.lost)
            .finish()
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").finish_non_exhaustive()
    }
}
