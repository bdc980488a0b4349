//! A simulated network: connections with delays, bounded buffers and failures.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::{Instant, Sleep, sleep, sleep_until},
};

use crate::world::World;

/// The behavior of one connection.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// The longest delay of a packet.
    pub delay: Duration,
    /// The size of the buffer of each direction, in bytes.
    pub buffer: usize,
    /// The largest packet.
    pub packet: usize,
    /// For each direction, the number of bytes after which the connection breaks.
    pub breaks_after: [Option<u64>; 2],
    /// The longest time until an end learns that the other end was dropped, or that the connection broke.
    pub notice: Duration,
}

/// Both ends of a connection.
pub struct Wire(Mutex<State>);

struct State {
    lanes: [Lane; 2],
    /// When each end learns that the connection broke.
    broken: Option<[Instant; 2]>,
    /// When the other end learns that this end was dropped.
    dropped: [Option<Instant>; 2],
    link_settings: LinkSettings,
    rng: fastrand::Rng,
}

/// One direction of a connection.
#[derive(Default)]
struct Lane {
    packets: VecDeque<(Instant, Vec<u8>)>,
    queued: usize,
    sent: u64,
    arrives: Option<Instant>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end of a connection.
pub struct End {
    wire: Arc<Wire>,
    side: usize,
    reads: Option<Pin<Box<Sleep>>>,
    writes: Option<Pin<Box<Sleep>>>,
    world: Arc<World>,
}

impl Wire {
    pub fn pair(
        world: &Arc<World>,
        link_settings: LinkSettings,
        rng: fastrand::Rng,
    ) -> (End, End, Arc<Wire>) {
        let state = State {
            lanes: [Lane::default(), Lane::default()],
            broken: None,
            dropped: [None; 2],
            link_settings,
            rng,
        };
        let wire = Arc::new(Wire(Mutex::new(state)));
        let end = |side| {
            world.count(|counts| counts.open_sockets += 1);
            End {
                wire: Arc::clone(&wire),
                side,
                reads: None,
                writes: None,
                world: Arc::clone(world),
            }
        };
        (end(0), end(1), Arc::clone(&wire))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn cut(&self) {
        self.lock().cut();
    }

    /// Whether the connection is broken or the client's end was dropped.
    pub fn is_dead(&self) -> bool {
        let state = self.lock();
        state.broken.is_some() || state.dropped[0].is_some()
    }
}

impl State {
    fn cut(&mut self) {
        if self.broken.is_none() {
            let now = Instant::now();
            self.broken =
                Some([(); 2].map(|()| now + upto(&mut self.rng, self.link_settings.notice)));
            self.wake_all();
        }
    }

    fn wake_all(&mut self) {
        for lane in &mut self.lanes {
            lane.reader.take().into_iter().for_each(Waker::wake);
            lane.writer.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// A random duration of at most `most`, in whole milliseconds.
pub fn upto(rng: &mut fastrand::Rng, most: Duration) -> Duration {
    Duration::from_millis(rng.u64(0..=most.as_millis() as u64))
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let now = Instant::now();
            let mut state = this.wire.lock();
            let broken = state.broken.map(|broken| broken[this.side]);
            if broken.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let dropped = state.dropped[1 - this.side];
            let lane = &mut state.lanes[1 - this.side];
            let next = match lane.packets.front_mut() {
                Some((at, packet)) if *at <= now => {
                    let length = packet.len().min(buf.remaining());
                    buf.put_slice(&packet[..length]);
                    packet.drain(..length);
                    if packet.is_empty() {
                        lane.packets.pop_front();
                    }
                    lane.queued -= length;
                    lane.writer.take().into_iter().for_each(Waker::wake);
                    return Poll::Ready(Ok(()));
                }
                Some((at, _)) => Some(*at),
                None => match dropped {
                    Some(at) if at <= now => return Poll::Ready(Ok(())),
                    dropped => dropped,
                },
            };
            lane.reader = Some(cx.waker().clone());
            drop(state);
            let Some(at) = next.into_iter().chain(broken).min() else {
                return Poll::Pending;
            };
            if !wait(&mut this.reads, cx, at) {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            let now = Instant::now();
            let mut guard = this.wire.lock();
            let state = &mut *guard;
            let broken = state.broken.map(|broken| broken[this.side]);
            let dropped = state.dropped[1 - this.side];
            if broken.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if dropped.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let State {
                lanes,
                link_settings,
                rng,
                ..
            } = state;
            let lane = &mut lanes[this.side];
            let buffer = link_settings.buffer.saturating_sub(lane.queued);
            let mut length = bytes.len().min(buffer).min(link_settings.packet);
            if length == 0 && !bytes.is_empty() {
                lane.writer = Some(cx.waker().clone());
                drop(guard);
                let Some(at) = broken.into_iter().chain(dropped).min() else {
                    return Poll::Pending;
                };
                if !wait(&mut this.writes, cx, at) {
                    return Poll::Pending;
                }
                continue;
            }
            let limit = link_settings.breaks_after[this.side];
            let limit = limit.map(|limit| limit.saturating_sub(lane.sent) as usize);
            let breaks = limit.is_some_and(|limit| limit <= length);
            length = limit
                .map_or(length, |limit| limit.min(length))
                .max(1)
                .min(bytes.len());
            if broken.is_none() && dropped.is_none() {
                let arrives = now + upto(rng, link_settings.delay);
                let arrives = lane.arrives.map_or(arrives, |last| last.max(arrives));
                lane.arrives = Some(arrives);
                lane.sent += length as u64;
                lane.queued += length;
                lane.packets.push_back((arrives, bytes[..length].to_vec()));
                lane.reader.take().into_iter().for_each(Waker::wake);
            }
            if breaks && state.broken.is_none() {
                this.world.note(|| "a connection breaks".into());
                this.world.count(|counts| counts.breaks += 1);
                state.cut();
            }
            return Poll::Ready(Ok(length));
        }
    }

    /// True, as for sockets. hyper then knows which of its buffers are written.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Polls the timer. Returns whether the time has come.
fn wait(timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>, at: Instant) -> bool {
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
    if timer.deadline() != at {
        timer.as_mut().reset(at);
    }
    timer.as_mut().poll(cx).is_ready()
}

impl Drop for End {
    fn drop(&mut self) {
        self.world.count(|counts| counts.open_sockets -= 1);
        let mut state = self.wire.lock();
        // The other end first reads the packets that were sent before.
        let notice = Instant::now() + {
            let State {
                link_settings, rng, ..
            } = &mut *state;
            upto(rng, link_settings.notice.min(Duration::from_secs(1)))
        };
        let arrives = state.lanes[self.side].arrives;
        let at = arrives.map_or(notice, |arrives| arrives.max(notice));
        state.dropped[self.side] = Some(at);
        state.wake_all();
    }
}

/// A host to connect to.
#[derive(Clone)]
pub struct Address(Arc<Mutex<Host>>);

struct Host {
    accepts: Option<mpsc::UnboundedSender<(End, Arc<Wire>)>>,
    wires: Vec<Weak<Wire>>,
}

impl Address {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<(End, Arc<Wire>)>) {
        let (accepts, accepted) = mpsc::unbounded_channel();
        let host = Host {
            accepts: Some(accepts),
            wires: Vec::new(),
        };
        (Self(Arc::new(Mutex::new(host))), accepted)
    }

    pub async fn connect(
        &self,
        world: &Arc<World>,
        link_settings: LinkSettings,
        mut rng: fastrand::Rng,
    ) -> io::Result<End> {
        sleep(upto(&mut rng, link_settings.delay)).await;
        let mut host = self.0.lock().unwrap();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let accepts = host.accepts.as_ref().ok_or_else(refused)?;
        let (client_end, host_end, wire) = Wire::pair(world, link_settings, rng);
        accepts
            .send((host_end, Arc::clone(&wire)))
            .map_err(|_| refused())?;
        host.wires.retain(|wire| wire.strong_count() > 0);
        host.wires.push(Arc::downgrade(&wire));
        Ok(client_end)
    }

    /// Breaks all connections and rejects new ones.
    pub fn stop(&self) {
        let mut host = self.0.lock().unwrap();
        host.accepts = None;
        for wire in host.wires.drain(..).filter_map(|wire| wire.upgrade()) {
            wire.cut();
        }
    }

    pub fn restart(&self) -> mpsc::UnboundedReceiver<(End, Arc<Wire>)> {
        let (accepts, accepted) = mpsc::unbounded_channel();
        self.0.lock().unwrap().accepts = Some(accepts);
        accepted
    }
}
