//! What is answered where.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::{Stream, unfold};
use serde::Serialize;

use super::door::Door;
use super::listen::Answering;
use super::queue::News;
use super::watch::{Viewer, Watch};

/// The page's own files, built from `page/src` by `make page`.
const HOME: &str = include_str!("../../page/dist/index.html");
const SCRIPT: &str = include_str!("../../page/dist/page.js");
const STYLE: &str = include_str!("../../page/dist/page.css");
const NOTICES: &str = include_str!("../../page/dist/THIRD-PARTY.txt");

/// Scripts, styles and answers from here only; nothing inline, no other site, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// All pages.
pub fn router(door: Door, watch: Watch) -> Router {
    let asked = Router::new()
        .route("/api/state", get(state))
        .route("/api/events", get(events))
        .route("/api/why", get(why))
        .route("/api/reach", get(reach))
        .route_layer(from_fn_with_state(door.clone(), with_token))
        .with_state(watch.clone());
    let home = Router::new()
        .route("/", get(home))
        .with_state((door.clone(), watch));
    Router::new()
        .merge(home)
        .route(
            "/page.js",
            get(|| file("text/javascript; charset=utf-8", SCRIPT)),
        )
        .route("/page.css", get(|| file("text/css; charset=utf-8", STYLE)))
        .route(
            "/third-party.txt",
            get(|| file("text/plain; charset=utf-8", NOTICES)),
        )
        .merge(asked)
        .layer(from_fn_with_state(door, for_us))
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The page. If it is fetched with the token, the agents are asked already while the browser reads it.
async fn home(
    State((door, watch)): State<(Door, Watch)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    if query
        .get("token")
        .is_some_and(|token| door.is_opened_by(token))
    {
        watch.expect();
    }
    file("text/html; charset=utf-8", HOME).await
}

/// Every answer, refusals included, says what a browser may do with it.
async fn for_us(State(door): State<Door>, request: Request, next: Next) -> Response {
    let mut response = match door.is_for_us(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn with_token(State(door): State<Door>, request: Request, next: Next) -> Response {
    match door.has_token(request.headers()) {
        Ok(()) => {
            let answering = Answering::to(&request);
            answering.with(next.run(request).await)
        }
        Err(refused) => refused.into_response(),
    }
}

async fn state(State(watch): State<Watch>) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, watch.state().to_string()).into_response()
}

async fn events(State(watch): State<Watch>) -> Response {
    match watch.view() {
        Some(viewer) => Sse::new(stream(viewer))
            .keep_alive(KeepAlive::default())
            .into_response(),
        None => (StatusCode::TOO_MANY_REQUESTS, "too many pages are open\n").into_response(),
    }
}

/// What happens, until the browser goes.
fn stream(viewer: Viewer) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(viewer, |mut viewer| async move {
        let News { kind, data, .. } = viewer.next().await;
        Some((Ok(Event::default().event(kind).data(&*data)), viewer))
    })
}

async fn why(
    State(watch): State<Watch>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let (Some(from), Some(to)) = (query.get("from"), query.get("to")) else {
        return (StatusCode::BAD_REQUEST, "give ?from=...&to=...\n").into_response();
    };
    answer(watch.why(from, to).await)
}

async fn reach(
    State(watch): State<Watch>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    match query.get("pod") {
        Some(pod) => answer(watch.reach(pod).await),
        None => (StatusCode::BAD_REQUEST, "give ?pod=...\n").into_response(),
    }
}

/// What was found, or why nothing was.
fn answer(found: Result<impl Serialize, String>) -> Response {
    match found {
        Ok(found) => {
            let json = serde_json::to_string(&found).expect("what agents say is plain data");
            ([(header::CONTENT_TYPE, "application/json")], json).into_response()
        }
        Err(text) => (StatusCode::BAD_REQUEST, text).into_response(),
    }
}
