//! A client learns nothing about the sessions and streams of another owner.

use http::{Method, Request, Response, StatusCode, request::Builder};
use tower_sse_proxy::Policy;

use crate::{
    routes::layer,
    serving::settings,
    support::{
        event_stream,
        origin::{FedBody, Front, Origin, settle},
        staged,
    },
};

/// Credentials that are not those of the owner: none, those of another owner, and those of the owner before they changed.
const OTHERS: [Option<&str>; 3] = [None, Some("Bearer other"), Some("Bearer mine-before")];

const MINE: Option<&str> = Some("Bearer mine");

/// Ids in the form of the gateway's ids that it has not created.
const NO_EVENT: &str = "0123456789abcdef0123456789abcdef.0.1";
const NO_SESSION: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

fn gateway() -> (Front, Origin) {
    let settings = settings(&[]);
    let upstream = "http://127.0.0.1:9".parse().unwrap();
    let listen = settings.listen.addresses[0];
    staged(&layer(Policy::default(), &settings, listen, &upstream).unwrap())
}

fn request(method: &Method, path: &str, credentials: Option<&str>) -> Builder {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "localhost:18080");
    match credentials {
        Some(credentials) => request.header("authorization", credentials),
        None => request,
    }
}

/// The whole response to a request that the gateway answers without the upstream.
async fn answer(front: &Front, origin: &mut Origin, request: Builder) -> String {
    let client = front.send(request).await;
    let (status, headers) = (client.status, format!("{:?}", client.headers));
    let (body, failed) = client.rest().await;
    assert!(origin.is_idle().await, "the upstream got a request");
    format!("{status} {headers} {body} {failed:?}")
}

#[tokio::test(start_paused = true)]
async fn r48_stream_of_another_owner_is_answered_like_an_unknown_one() {
    for ended in [false, true] {
        let (front, mut origin) = gateway();
        let (mut client, mut feed) = front
            .open(&mut origin, request(&Method::GET, "/r/a", MINE))
            .await;
        feed.events(0..3).await;
        let (_, id) = client.events(1).await;
        if ended {
            feed.end();
            client.rest().await;
        }
        for method in [Method::GET, Method::POST, Method::HEAD, Method::DELETE] {
            for credentials in OTHERS {
                let resume = |id: &str| {
                    let request = request(&method, "/r/a", credentials);
                    request.header("last-event-id", id)
                };
                let foreign = answer(&front, &mut origin, resume(&id)).await;
                let unknown = answer(&front, &mut origin, resume(NO_EVENT)).await;
                assert_eq!(foreign, unknown, "{method} {credentials:?}");
            }
        }
        // The owner resumes the stream, whatever others have tried.
        let resume = request(&Method::GET, "/r/a", MINE).header("last-event-id", &id);
        assert_eq!(front.send(resume).await.events(2).await.0, ["1", "2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn r48_session_of_another_owner_is_answered_like_an_unknown_one() {
    let (front, mut origin) = gateway();
    let opening = async {
        let (feed, body) = FedBody::new(16);
        let mut response = event_stream(body);
        let session = "UP-1".parse().unwrap();
        response.headers_mut().insert("mcp-session-id", session);
        origin.next().await.answer(response);
        feed
    };
    let opened = front.send(request(&Method::POST, "/mcp", MINE));
    let (mut client, mut feed) = tokio::join!(opened, opening);
    let session = client.headers["mcp-session-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let data = "data: {\"method\":\"progress\"}\n\n";
    feed.send_data(data.into()).await.unwrap();
    let (_, id) = client.events(1).await;

    for method in [Method::GET, Method::POST, Method::DELETE, Method::HEAD] {
        for credentials in OTHERS {
            let of = |session: &str| {
                let request = request(&method, "/mcp", credentials);
                request.header("mcp-session-id", session)
            };
            let foreign = answer(&front, &mut origin, of(&session)).await;
            let unknown = answer(&front, &mut origin, of(NO_SESSION)).await;
            assert!(
                foreign.starts_with("404 "),
                "{method} {credentials:?}: {foreign}"
            );
            assert_eq!(foreign, unknown, "{method} {credentials:?}");
            // Also with the event id of a stream of the session.
            for session in [&session, NO_SESSION] {
                let resume = of(session).header("last-event-id", &id);
                assert_eq!(answer(&front, &mut origin, resume).await, unknown);
            }
        }
    }
    // With a session of its own, a client cannot resume the stream of another session.
    let another = async {
        let mut response = Response::new(FedBody::new(1).1);
        let session = "UP-2".parse().unwrap();
        response.headers_mut().insert("mcp-session-id", session);
        origin.next().await.answer(response);
    };
    let opened = front.send(request(&Method::POST, "/mcp", OTHERS[1]));
    let (other, ()) = tokio::join!(opened, another);
    let other = other.headers["mcp-session-id"].to_str().unwrap().to_owned();
    for method in [Method::GET, Method::POST] {
        let resume = |id: &str| {
            let request = request(&method, "/mcp", OTHERS[1]).header("mcp-session-id", &other);
            request.header("last-event-id", id)
        };
        let foreign = answer(&front, &mut origin, resume(&id)).await;
        assert_eq!(foreign, answer(&front, &mut origin, resume(NO_EVENT)).await);
        let status = StatusCode::BAD_REQUEST.as_str();
        assert!(foreign.starts_with(status), "{foreign}");
    }
    // The owner's session and stream are untouched.
    feed.send_data(data.into()).await.unwrap();
    settle().await;
    let resume = request(&Method::GET, "/mcp", MINE).header("mcp-session-id", &session);
    let mut resumed = front.send(resume.header("last-event-id", &id)).await;
    resumed.events(1).await;
}
