//! The models: one list over all upstreams, and the engines of the first API.

use serde_json::{Value, json};

use crate::support::answers::{chat, json_answer};
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::{Script, Upstream};

/// An upstream with these models.
async fn serving(models: &'static [&'static str]) -> Upstream {
    Upstream::start(move |request| {
        let object = |id: &str| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "them", "context_window": 8192});
        if request.method == "GET" && request.target == "/v1/models" {
            let data: Vec<Value> = models.iter().map(|id| object(id)).collect();
            return Script::new().send(json_answer("200 OK", json!({"object": "list", "data": data}).to_string()));
        }
        if let Some(name) = request.target.strip_prefix("/v1/models/") {
            let name = name.replace("%2F", "/");
            if models.contains(&name.as_str()) {
                return Script::new().send(json_answer("200 OK", object(&name).to_string()));
            }
            return Script::new().send(json_answer("404 Not Found", r#"{"error":{"message":"no","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#));
        }
        Script::new().send(chat())
    })
    .await
}

fn ids(list: &Value) -> Vec<&str> {
    let mut ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    ids
}

async fn two() -> (Upstream, Upstream, Gateway) {
    let first = serving(&["gpt-4o", "o4", "org/model-with-slash"]).await;
    let second = serving(&["qwen3", "gpt-4o"]).await;
    let gateway = Config::new()
        .upstream("first", &first, "models = [\"gpt-*\", \"org/*\"]")
        .upstream("second", &second, "models = [\"*\"]")
        .route("alias", "second", "qwen3")
        .start()
        .await;
    (first, second, gateway)
}

#[tokio::test]
async fn the_list_is_merged_and_tells_the_upstream() {
    let (_first, _second, gateway) = two().await;
    let list = gateway.client().get("/v1/models").await;
    assert_eq!(list.status, 200);
    assert_eq!(list.header("content-type"), Some("application/json"));
    let list = list.json();
    assert_eq!(list["object"], "list");
    // The first upstream does not serve its o4, and the second's gpt-4o is not the one that a client would get.
    assert_eq!(
        ids(&list),
        ["alias", "gpt-4o", "org/model-with-slash", "qwen3"]
    );
    for model in list["data"].as_array().unwrap() {
        let owner = match model["id"].as_str().unwrap() {
            "gpt-4o" | "org/model-with-slash" => "first",
            _ => "second",
        };
        assert_eq!(model["owned_by"], owner, "{model}");
        assert_eq!(model["object"], "model");
        assert!(model["created"].is_u64());
    }
}

#[tokio::test]
async fn one_model_is_found_however_its_slash_is_spelled() {
    let (_first, _second, gateway) = two().await;
    for (path, id, owner) in [
        ("/v1/models/gpt-4o", "gpt-4o", "first"),
        (
            "/v1/models/org%2Fmodel-with-slash",
            "org/model-with-slash",
            "first",
        ),
        (
            "/v1/models/org/model-with-slash",
            "org/model-with-slash",
            "first",
        ),
        ("/v1/models/alias", "alias", "second"),
    ] {
        let answer = gateway.client().get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.json()["id"], id);
        assert_eq!(answer.json()["owned_by"], owner);
        assert_eq!(answer.json()["object"], "model");
    }
    let answer = gateway.client().get("/v1/models/nothing-like-it").await;
    answer.error(404, "invalid_request_error", "model_not_found");
}

#[tokio::test]
async fn engines_are_the_models_in_the_old_words() {
    let (_first, _second, gateway) = two().await;
    let list = gateway.client().get("/v1/engines").await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(
        ids(&list),
        ["alias", "gpt-4o", "org/model-with-slash", "qwen3"]
    );
    for engine in list["data"].as_array().unwrap() {
        assert_eq!(engine["object"], "engine");
        assert_eq!(engine["ready"], true);
    }
    let one = gateway
        .client()
        .get("/v1/engines/org%2Fmodel-with-slash")
        .await
        .json();
    assert_eq!(
        (one["id"].as_str(), one["object"].as_str()),
        (Some("org/model-with-slash"), Some("engine"))
    );
    let none = gateway.client().get("/v1/engines/nothing-like-it").await;
    none.error(404, "invalid_request_error", "model_not_found");
}

#[tokio::test]
async fn an_upstream_that_is_away_does_not_take_the_list_along() {
    let first = serving(&["gpt-4o"]).await;
    let second = Upstream::start(|_| Script::new().stall()).await;
    let third = serving(&["late"]).await;
    let config = Config::new()
        .upstream("first", &first, "models = [\"gpt-*\"]")
        .upstream("second", &second, "models = [\"x-*\"]\ntimeouts = { connect = \"300ms\", first_byte = \"300ms\", idle = \"300ms\", total = \"1s\" }")
        .upstream("third", &third, "models = [\"late\"]");
    drop(third);
    let gateway = config.start().await;
    let list = gateway.client().get("/v1/models").await;
    assert_eq!(list.status, 200, "{}", list.text());
    assert!(ids(&list.json()).contains(&"gpt-4o"));
}

#[tokio::test]
async fn each_call_goes_to_the_upstream_of_its_model() {
    let (first, second, gateway) = two().await;
    for (model, to_first) in [
        ("gpt-4o", true),
        ("org/x", true),
        ("o4", false),
        ("alias", false),
    ] {
        let before = (first.calls().len(), second.calls().len());
        let answer = gateway
            .client()
            .chat(json!({"model": model, "messages": []}))
            .await;
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        let expected = if to_first { "first" } else { "second" };
        assert_eq!(answer.header("x-weir-upstream"), Some(expected));
        let after = (first.calls().len(), second.calls().len());
        assert_eq!(
            (after.0 - before.0, after.1 - before.1),
            if to_first { (1, 0) } else { (0, 1) }
        );
    }
    assert_eq!(second.calls().pop().unwrap().json()["model"], "qwen3");
}

#[tokio::test]
async fn the_most_specific_route_wins() {
    let first = serving(&[]).await;
    let second = serving(&[]).await;
    let gateway = Config::new()
        .upstream("first", &first, "models = [\"none-1\"]")
        .upstream("second", &second, "models = [\"none-2\"]")
        .route("gpt-*", "first", "wide")
        .route("gpt-4*", "second", "narrow")
        .route("gpt-4o", "first", "exact")
        .start()
        .await;
    for (asked, upstream, model) in [
        ("gpt-3", &first, "wide"),
        ("gpt-4", &second, "narrow"),
        ("gpt-4o", &first, "exact"),
    ] {
        gateway
            .client()
            .chat(json!({"model": asked, "messages": []}))
            .await;
        assert_eq!(
            upstream.calls().pop().unwrap().json()["model"],
            model,
            "{asked}"
        );
    }
}
