//! The wall clock changes by an hour: no session or recorded stream expires early, and none that has expired becomes valid again.
//!
//! The tests run in a child process with a library that changes the wall clock of that process. The monotonic clock is that of tokio,
//! which the tests pause.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    time::{Duration, SystemTime},
};

use http::HeaderName;
use tower_sse_proxy::{
    SseProxyLayer,
    replay::Replay,
    session::{MemoryStore, SealedKey, SealedStore, SessionMapping},
};

use crate::support::{
    FedBody, Front, Origin, event_stream,
    origin::{get, settle},
    staged,
};

/// The environment variable with the file that holds the offset of the wall clock, in seconds.
const OFFSET: &str = "TEST_WALL_CLOCK_OFFSET";

/// The source of a library that replaces the function with which programs read the clocks.
const LIBRARY: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <time.h>
    int clock_gettime(clockid_t clock, struct timespec *time) {
        int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
        int result = real(clock, time);
        const char *name = getenv("TEST_WALL_CLOCK_OFFSET");
        FILE *file = clock == CLOCK_REALTIME && name ? fopen(name, "r") : NULL;
        long offset = 0;
        if (file) {
            if (fscanf(file, "%ld", &offset) == 1) time->tv_sec += offset;
            fclose(file);
        }
        return result;
    }
"#;

#[test]
fn r44_wall_clock_that_is_set_ends_and_revives_nothing() {
    let directory = env::temp_dir().join(format!("wall-clock-{}", process::id()));
    fs::create_dir_all(&directory).unwrap();
    let path = |name: &str| directory.join(name);
    fs::write(path("clock.c"), LIBRARY).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([path("clock.so"), path("clock.c")])
        .arg("-ldl")
        .status();
    assert!(compiled.unwrap().success());
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "wall_clock::in_a_child_process", "--nocapture"])
        .env("LD_PRELOAD", path("clock.so"))
        .env(OFFSET, path("offset"))
        .output()
        .unwrap();
    fs::remove_dir_all(&directory).unwrap();
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

/// The clock of the child process.
struct WallClock(PathBuf);

impl WallClock {
    /// Sets the clock to this number of hours after the real time.
    fn set(&self, hours: i64) {
        fs::write(&self.0, (hours * 3600).to_string()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_child_process() {
    let Some(file) = env::var_os(OFFSET) else {
        return;
    };
    let clock = WallClock(Path::new(&file).to_owned());
    let real = SystemTime::now();
    clock.set(1);
    let ahead = SystemTime::now().duration_since(real).unwrap();
    assert!(
        ahead >= Duration::from_secs(3600),
        "the library is not loaded"
    );
    clock.set(0);
    sessions_of(SseProxyLayer::new(MemoryStore::default()), &clock, true).await;
    let sealed = SealedStore::new(SealedKey::from_bytes([7; 32]));
    sessions_of(SseProxyLayer::new(sealed), &clock, false).await;
}

/// Opens a stream that opens a session. Returns the session's id and the id of the first of three events.
async fn opened(front: &Front, origin: &mut Origin) -> (String, String) {
    let answer = async {
        let (mut feed, body) = FedBody::new(16);
        let mut response = event_stream(body);
        let session = format!("UP-{}", fastrand::u64(..)).parse().unwrap();
        response.headers_mut().insert("x-session", session);
        origin.next().await.answer(response);
        for number in 0..3 {
            feed.send_data(format!("data: {number}\n\n").into())
                .await
                .unwrap();
        }
    };
    let (mut client, ()) = tokio::join!(front.send(get("/")), answer);
    let session = client.headers["x-session"].to_str().unwrap().to_owned();
    let (_, id) = client.events(1).await;
    settle().await;
    (session, id)
}

async fn sessions_of(layer: SseProxyLayer, clock: &WallClock, has_idle_timeout: bool) {
    let mapping = SessionMapping::header(HeaderName::from_static("x-session"));
    let layer = layer.sessions(mapping.end_on_delete_or_404());
    let (front, mut origin) = staged(&layer.replay(Replay::default()));
    let (session, id) = opened(&front, &mut origin).await;
    let (deleted, _) = opened(&front, &mut origin).await;
    assert_ne!(session, deleted);
    let delete = http::Request::delete("/").header("x-session", &deleted);
    let (answer, ()) = tokio::join!(front.send(delete), async {
        origin.next().await.status(http::StatusCode::NO_CONTENT);
    });
    assert_eq!(answer.status, 204);
    let resume = || {
        get("/")
            .header("x-session", &session)
            .header("last-event-id", &id)
    };
    let of_deleted = || get("/").header("x-session", &deleted);
    for hours in [1, 0, -1, 1, -1, 0] {
        clock.set(hours);
        let mut resumed = front.send(resume()).await;
        assert_eq!(resumed.events(2).await.0, ["1", "2"], "{hours} h");
        assert_eq!(front.send(of_deleted()).await.status, 404, "{hours} h");
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    // The log expires by the monotonic clock, also if the wall clock was set back.
    clock.set(-1);
    tokio::time::advance(Duration::from_secs(6 * 60)).await;
    settle().await;
    let (text, _) = front.send(resume()).await.rest().await;
    assert!(text.starts_with("event: gap\n"), "{text}");
    if has_idle_timeout {
        tokio::time::advance(Duration::from_secs(31 * 60)).await;
        assert_eq!(front.send(resume()).await.status, 404);
    }
    assert!(origin.is_idle().await);
    clock.set(0);
}
