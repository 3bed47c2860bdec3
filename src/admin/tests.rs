use std::time::Duration;

use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::*;
use crate::report::outlook::Outlook;
use crate::store::cache::Bounds;
use crate::store::directory::{ADMIN, Configured};
use crate::store::ledger::{self, Ledger, Sync};
use crate::store::retries::{self, Retries};
use crate::upstream::routing::Retry;

const TOKEN: &str = "admin-token-of-mine";

struct Idle;

impl Control for Idle {
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Refused>> + Send>> {
        Box::pin(std::future::ready(Ok(Reloaded::default())))
    }

    fn explain(&self, _: Question) -> Pin<Box<dyn Future<Output = Outlook> + Send>> {
        Box::pin(std::future::pending())
    }
}

struct Desk {
    admin: Admin<Full<Bytes>>,
    _folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&ledger::Params {
            path: folder.path().join("weir.db"),
            sync: Sync::Never,
            max_open: 8,
            retention: Default::default(),
        });
        let metrics = Arc::new(Metrics::new().unwrap());
        let retry = Retry {
            attempts: 0,
            base: Duration::ZERO,
            max: Duration::ZERO,
            max_retry_after: Duration::ZERO,
            hold: Duration::ZERO,
        };
        let dispatch = Dispatch::new(Vec::new(), Vec::new(), retry, Arc::clone(&metrics));
        let directory = Directory::open(
            &ledger.unwrap(),
            &Arc::default(),
            Arc::default(),
            Configured::default(),
            ADMIN,
        );
        let params = Params {
            token_digest: secrets::digest(TOKEN.as_bytes()),
            metrics,
            dispatch: Arc::new(ArcSwap::from_pointee(dispatch)),
            control: Arc::new(Idle),
            directory: directory.unwrap(),
            shared: None,
            cache: Arc::new(Cache::new(Bounds {
                bytes: 1 << 20,
                entry: 1 << 10,
            })),
            retries: Arc::new(Retries::new(retries::Bounds {
                bytes: 1 << 20,
                entries: 100,
            })),
            shared_cache: None,
            drain: Drain::default(),
        };
        let data = |_| std::future::ready(Ok(Response::new(Full::<Bytes>::from("the data plane"))));
        let admin = Admin::new(params, data_plane(tower::service_fn(data)));
        Self {
            admin,
            _folder: folder,
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> (StatusCode, HeaderMap, Bytes) {
        let Ok(response): Result<Response<_>, Infallible> = self.admin.clone().call(request).await;
        let (head, body) = response.into_parts();
        (
            head.status,
            head.headers,
            body.collect().await.unwrap().to_bytes(),
        )
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/admin/v1/{path}"))
            .header("authorization", format!("Bearer {TOKEN}"));
        if body.is_some() {
            request = request.header("content-type", "application/json; charset=utf-8");
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let (status, _, body) = self.send(request.body(body.into()).unwrap()).await;
        (
            status.as_u16(),
            serde_json::from_slice(&body).unwrap_or_default(),
        )
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, path, Some(body)).await
    }
}

#[tokio::test]
async fn a_purge_is_noted_though_whoever_asked_for_it_has_left() {
    let desk = Desk::new();
    {
        let purge = std::pin::pin!(desk.ask(Method::DELETE, "cache?all=true", None));
        assert!(futures_util::poll!(purge).is_pending());
    }
    let noted = async {
        while desk.get("audit?limit=1").await.1["data"][0]["action"] != "cache.purge" {
            tokio::task::yield_now().await;
        }
    };
    let noted = tokio::time::timeout(Duration::from_secs(60), noted).await;
    assert!(noted.is_ok());
}

#[tokio::test]
async fn a_key_from_its_making_to_its_end() {
    let desk = Desk::new();
    assert_eq!(
        desk.get("keys").await,
        (200, json!({ "object": "list", "data": [] }))
    );
    let (status, made) = desk.post("keys", json!({ "name": "a/b ü" })).await;
    assert_eq!(status, 201, "{made}");
    let (id, secret) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(secret.starts_with(&format!("{id}-")) && id.len() == 11 && secret.len() == 55);
    assert_eq!(
        (
            &made["name"],
            &made["source"],
            &made["state"],
            &made["shadowed"],
            &made["models"]
        ),
        (
            &json!("a/b ü"),
            &json!("admin"),
            &json!("active"),
            &json!(false),
            &json!(["*"])
        )
    );
    for path in ["keys/a%2Fb%20%C3%BC", &format!("keys/{id}")] {
        let (status, shown) = desk.get(path).await;
        assert_eq!(
            (status, &shown["id"], shown.get("key")),
            (200, &made["id"], None)
        );
    }
    let edit = json!({ "budgets": [{ "amount": "5 USD", "per": "day" }], "expires": "2999-01-01T00:00:00Z" });
    let (status, edited) = desk
        .ask(Method::PATCH, &format!("keys/{id}"), Some(edit))
        .await;
    assert_eq!(
        (status, &edited["budgets"][0]["amount"]),
        (200, &json!("5.00 USD"))
    );
    let (status, rotated) = desk
        .ask(Method::POST, &format!("keys/{id}/rotate"), None)
        .await;
    assert_eq!((status, &rotated["previous"]["id"]), (200, &made["id"]));
    assert_ne!(rotated["key"], made["key"]);
    let (status, revoked) = desk.ask(Method::DELETE, "keys/a%2Fb%20%C3%BC", None).await;
    assert_eq!((status, &revoked["state"]), (200, &json!("revoked")));
    let (_, audit) = desk.get("audit?limit=2").await;
    let actions: Vec<_> = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["action"])
        .collect();
    assert_eq!(actions, ["key.revoke", "key.rotate"]);
    let (status, refused) = desk
        .post(
            &format!("keys/{}/rotate", rotated["id"].as_str().unwrap()),
            json!({}),
        )
        .await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (400, &json!("key_revoked"))
    );
}

#[tokio::test]
async fn teams() {
    let desk = Desk::new();
    assert_eq!(desk.post("teams", json!({ "name": "t" })).await.0, 201);
    assert_eq!(
        desk.post("keys", json!({ "name": "a", "team": "t" }))
            .await
            .0,
        201
    );
    let (status, refused) = desk.ask(Method::DELETE, "teams/t", None).await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (400, &json!("team_has_keys"))
    );
    let (_, team) = desk.get("teams/t").await;
    assert_eq!(team["keys"], json!(["a"]));
    let edited = desk
        .ask(
            Method::PATCH,
            "teams/t",
            Some(json!({ "models": ["gpt-*"] })),
        )
        .await;
    assert_eq!(edited.1["models"], json!(["gpt-*"]));
    assert_eq!(desk.ask(Method::DELETE, "keys/a", None).await.0, 200);
    assert_eq!(desk.ask(Method::DELETE, "teams/t", None).await.0, 200);
    assert_eq!(desk.get("teams/t").await.0, 404);
}

#[tokio::test]
async fn mistakes_name_their_field() {
    let desk = Desk::new();
    desk.post("keys", json!({ "name": "taken" })).await;
    for (body, param, code) in [
        (json!({ "name": "taken" }), json!("name"), "name_taken"),
        (
            json!({ "name": "a", "team": "none" }),
            json!("team"),
            "invalid_value",
        ),
        (
            json!({ "name": "a", "modles": [] }),
            json!("modles"),
            "invalid_value",
        ),
        (
            json!({ "name": "a", "budgets": [{ "tokens": -5, "per": "day" }] }),
            json!("budgets[0].tokens"),
            "invalid_value",
        ),
        (json!(["a"]), Value::Null, "invalid_json"),
    ] {
        let (status, refused) = desk.post("keys", body).await;
        let error = &refused["error"];
        assert_eq!(
            (status, &error["param"], &error["code"]),
            (400, &param, &json!(code))
        );
        assert_eq!(error["type"], "invalid_request_error");
    }
    for (path, param) in [
        ("usage?from=yesterday", "from"),
        ("usage?to=", "to"),
        ("usage?from=2026-01-02&to=2026-01-01", "to"),
        ("usage?group_by=user", "group_by"),
        ("usage?format=xml", "format"),
        ("usage?since=1", "since"),
        ("audit?limit=0", "limit"),
        ("audit?limit=9999", "limit"),
        ("audit?before=x", "before"),
        ("requests?status=bad", "status"),
        ("requests?limit=0", "limit"),
        ("requests?before=x", "before"),
        ("requests?from=2026-01-01", "from"),
    ] {
        let (status, refused) = desk.get(path).await;
        assert_eq!(
            (status, &refused["error"]["param"]),
            (400, &json!(param)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn nothing_is_told_or_done_without_the_token_or_across_sites() {
    let desk = Desk::new();
    for (method, path) in [
        (Method::GET, "keys"),
        (Method::POST, "keys"),
        (Method::GET, "teams"),
        (Method::GET, "usage"),
        (Method::GET, "audit"),
        (Method::GET, "requests"),
        (Method::POST, "reload"),
        (Method::GET, "playground/models"),
        (Method::POST, "playground/chat/completions"),
        (Method::GET, "nothing"),
    ] {
        let request = || {
            Request::builder()
                .method(&method)
                .uri(format!("/admin/v1/{path}"))
        };
        let anyone = request().body(Full::default()).unwrap();
        assert_eq!(desk.send(anyone).await.0, 401, "{path}");
        let page = request()
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("host", "weir:8081")
            .header("origin", "http://evil.example")
            .body(Full::default());
        assert_eq!(desk.send(page.unwrap()).await.0, 403, "{path}");
        for site in ["cross-site", "same-site"] {
            let page = request()
                .header("authorization", format!("Bearer {TOKEN}"))
                .header("sec-fetch-site", site)
                .body(Full::default());
            assert_eq!(desk.send(page.unwrap()).await.0, 403, "{path} {site}");
        }
    }
    assert_eq!(desk.get("keys").await.1["data"], json!([]));
}

#[tokio::test]
async fn wrong_tokens_are_counted_and_missing_ones_are_not() {
    let desk = Desk::new();
    for authorization in [None, Some("Bearer wrong"), Some("Basic wrong")] {
        let mut request = Request::get("/admin/v1/keys");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let answer = desk.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.0, 401);
    }
    desk.get("keys").await;
    let metrics = desk.admin.params.metrics.render().unwrap();
    assert!(
        metrics.contains("weir_admin_refused_total 2\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn what_is_free_on_this_machine_is_read_under_none_but_its_own_names() {
    let desk = Desk::new();
    for (host, status) in [
        (Some("127.0.0.1:8081"), 200),
        (Some("[::1]:8081"), 200),
        (Some("localhost:8081"), 200),
        (Some("weir.localhost"), 200),
        (Some("build-host:8081"), 200),
        (None, 200),
        (Some("evil.example:8081"), 401),
        (Some("evil.example."), 401),
        (Some("127.0.0.1.evil.example"), 401),
    ] {
        let mut request =
            Request::get("/metrics").extension(PeerAddr("127.0.0.1:5".parse().unwrap()));
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let answer = desk.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.0, status, "{host:?}");
    }
    let with_token = Request::get("/metrics")
        .header("host", "weir.example.org")
        .header("authorization", format!("Bearer {TOKEN}"));
    assert_eq!(
        desk.send(with_token.body(Full::default()).unwrap()).await.0,
        200
    );
}

#[tokio::test]
async fn bodies_are_small_and_json() {
    let desk = Desk::new();
    let post = |kind: Option<&'static str>, body: String| {
        let mut request =
            Request::post("/admin/v1/keys").header("authorization", format!("Bearer {TOKEN}"));
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        desk.send(request.body(body.into()).unwrap())
    };
    let key = r#"{"name":"a"}"#;
    for kind in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
    ] {
        assert_eq!(post(kind, key.into()).await.0, 415, "{kind:?}");
    }
    let kind = Some("application/json");
    assert_eq!(post(kind, " ".repeat(65 << 10)).await.0, 413);
    for body in ["", "{", "null", "[]", "\"name\"", &"[".repeat(1000)] {
        assert_eq!(post(kind, body.into()).await.0, 400, "{body}");
    }
    let twice = post(kind, r#"{"name":"a","name":"b"}"#.into()).await;
    let twice: Value = serde_json::from_slice(&twice.2).unwrap();
    assert_eq!(twice["error"]["param"], "name");
    assert_eq!(post(kind, key.into()).await.0, 201);
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let desk = Desk::new();
    for (method, path, allow) in [
        (Method::PUT, "keys", "GET, POST"),
        (Method::POST, "keys/a", "GET, PATCH, DELETE"),
        (Method::GET, "keys/a/rotate", "POST"),
        (Method::PATCH, "teams", "GET, POST"),
        (Method::DELETE, "usage", "GET"),
        (Method::GET, "reload", "POST"),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(format!("/admin/v1/{path}"))
            .header("authorization", format!("Bearer {TOKEN}"));
        let (status, headers, _) = desk.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(
            (status.as_u16(), &headers["allow"]),
            (405, &allow.parse().unwrap()),
            "{path}"
        );
    }
    for path in ["keys/", "keys/a/b", "keys/a/rotate/x", "", "usage/x"] {
        assert_eq!(desk.get(path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn usage_is_told_as_json_and_as_csv() {
    let desk = Desk::new();
    let (status, usage) = desk.get("usage?from=2026-11-25&group_by=model").await;
    assert_eq!(
        (status, &usage["data"], &usage["total"]["cost"]),
        (200, &json!([]), &json!("0.00"))
    );
    assert_eq!(
        (&usage["from"], &usage["group_by"]),
        (&json!("2026-11-25T00:00:00Z"), &json!("model"))
    );
    let request = Request::get("/admin/v1/usage?format=csv")
        .header("authorization", format!("Bearer {TOKEN}"));
    let (status, headers, body) = desk.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(status, 200);
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/csv")
    );
    assert!(body.starts_with(b"key,requests,") && body.ends_with(b"\r\n"));
}

#[tokio::test]
async fn the_console_is_for_everyone_and_its_playground_for_those_with_the_token() {
    let desk = Desk::new();
    for path in ["/", "/console/main.js"] {
        // Wherever it is asked from: a link of another site may lead here.
        let anyone = Request::get(path)
            .header("host", "weir.example.org")
            .header("sec-fetch-site", "cross-site")
            .extension(PeerAddr("192.0.2.1:5".parse().unwrap()));
        let (status, headers, _) = desk.send(anyone.body(Full::default()).unwrap()).await;
        assert_eq!(status, 200, "{path}");
        assert!(headers.contains_key("content-security-policy"), "{path}");
    }
    for path in ["/console/nothing.js", "/console"] {
        let anyone = Request::get(path).body(Full::default()).unwrap();
        assert_eq!(desk.send(anyone).await.0, 401, "{path}");
    }
    let with_token = Request::post("/admin/v1/playground/chat/completions")
        .header("authorization", format!("Bearer {TOKEN}"));
    let (status, _, body) = desk.send(with_token.body(Full::default()).unwrap()).await;
    assert_eq!((status.as_u16(), &*body), (200, &b"the data plane"[..]));
    assert_eq!(
        desk.get("requests?status=error").await,
        (200, json!({ "object": "list", "data": [] }))
    );
}
