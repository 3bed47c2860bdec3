//! Against a real Redis of their own.

use serde_json::json;

use super::*;
use crate::store::directory::Configured;
use crate::store::directory::tests::House;
use crate::store::redis::testing::Server;

fn keys(house: &House) -> Vec<String> {
    let keys = house.directory.keys().into_iter();
    keys.map(|key| key.name.to_string()).collect()
}

#[tokio::test]
async fn more_records_than_are_taken_over_stop_nothing() {
    let server = Server::start();
    let redis = server.redis(library()).await;
    let (one, two) = (
        House::new(Configured::default()),
        House::new(Configured::default()),
    );
    let mut ones = Sharing::new(Arc::clone(&one.directory), redis.clone());
    let mut twos = Sharing::new(Arc::clone(&two.directory), redis);
    twos.most = 2;
    let mut secrets = Vec::new();
    for name in ["a", "b", "c"] {
        secrets.push(one.make(json!({ "name": name })).await.unwrap());
    }
    assert!(ones.look().await && twos.look().await);
    assert_eq!(keys(&two), ["a", "b"]);
    // What is made here is told all the same, and what is revoked elsewhere ends here.
    let own = two.make(json!({ "name": "d" })).await.unwrap();
    one.directory.revoke_key("a").await.unwrap();
    assert!(ones.look().await && twos.look().await && ones.look().await);
    assert_eq!(keys(&one), ["a", "b", "c", "d"]);
    assert!(two.who(&secrets[0]).is_none() && two.who(&secrets[1]).is_some());
    one.directory.revoke_key("d").await.unwrap();
    assert!(ones.look().await && twos.look().await);
    assert!(two.who(&own).is_none());
    // Room for more is found when all is read again.
    twos.most = 9;
    twos.seen = None;
    assert!(twos.look().await);
    assert_eq!(keys(&two), ["a", "b", "c", "d"]);
}
