//! A store that obeys conditions where Ceph's gateway does not.

#![cfg(all(unix, feature = "s3"))]
#![allow(clippy::unwrap_used, reason = "for tests")]

use diskimg::open::{Location, OpenMode, Protocol};
use diskimg::storage::output::{Durability, Publish};
use diskimg::storage::source::SourceError;
use diskimg_remote::s3::{Keys, S3, S3Options};
use diskimg_testkit::moto::Moto;

const MIB: usize = 1 << 20;

fn s3(store: &Moto, create_only: bool) -> S3 {
    s3_of(store, Keys::new("any", "any", None), create_only)
}

fn s3_of(store: &Moto, keys: Keys, create_only: bool) -> S3 {
    let mut options = S3Options::default();
    options.endpoint = Some(store.endpoint().to_owned());
    options.keys = Some(keys);
    options.http.netrc = None;
    options.create_only = create_only;
    S3::with_options(options).expect("is valid")
}

fn at(name: &str) -> Location {
    name.parse().expect("is a URL")
}

fn written(s3: &S3, name: &str, content: &[u8]) -> Box<dyn Publish> {
    let new = s3.create(&at(name)).expect("creates");
    new.sink().write_all_at(content, 0).expect("writes");
    new
}

fn read(s3: &S3, name: &str) -> Vec<u8> {
    let source = s3.open(&at(name), &OpenMode::default()).expect("opens");
    let mut bytes = vec![0; source.len() as usize];
    source.read_exact_at(&mut bytes, 0).expect("reads");
    bytes
}

#[test]
#[ignore = "needs moto and boto3"]
fn conditions_are_obeyed() {
    let store = Moto::start();
    store.boto3(&["create-bucket", "bucket"]);
    create_only(&store);
    replaced_while_it_is_read(&store);
}

/// If the object appears after this client has looked, the store refuses to replace it.
fn create_only(store: &Moto) {
    let s3 = s3(store, false);
    for len in [MIB, 20 * MIB] {
        written(&s3, &format!("s3://bucket/old-{len}"), &vec![2; len])
            .publish(Durability::Flushed)
            .expect("publishes");
    }
    // A user who may not read cannot look.
    let [access, secret, _] = store.make_role();
    store.require_signatures(0);
    let only = s3_of(store, Keys::new(access, secret, None), true);
    for (len, refused) in [(MIB, "PUT /bucket/old-"), (20 * MIB, "POST /bucket/old-")] {
        let ours = written(&only, &format!("s3://bucket/old-{len}"), &vec![1; len]);
        ours.flush(Durability::Flushed).expect("flushes");
        let error = ours.publish(Durability::Flushed).expect_err("it exists").to_string();
        assert!(error.contains("exists already"), "{error}");
        let requests = store.requests();
        let is_refused = |r: &String| r.starts_with(refused) && r.ends_with(" 412");
        assert_eq!(requests.iter().filter(|r| is_refused(r)).count(), 1, "{requests:?}");
        let new = written(&only, &format!("s3://bucket/new-{len}"), &vec![3; len]);
        new.publish(Durability::Flushed).expect("publishes");
    }
    store.require_signatures(u32::MAX);
    for len in [MIB, 20 * MIB] {
        assert!(read(&s3, &format!("s3://bucket/old-{len}")) == vec![2; len]);
        assert!(read(&s3, &format!("s3://bucket/new-{len}")) == vec![3; len]);
    }
    assert_eq!(store.boto3(&["uploads", "bucket"]), "");
}

fn replaced_while_it_is_read(store: &Moto) {
    let s3 = s3(store, false);
    let put = |byte: u8| {
        let new = written(&s3, "s3://bucket/replaced", &vec![byte; 4 * MIB]);
        new.publish(Durability::Flushed).expect("publishes");
    };
    put(1);
    let source = s3.open(&at("s3://bucket/replaced"), &OpenMode::default()).expect("opens");
    let mut bytes = vec![0; MIB];
    source.read_exact_at(&mut bytes, MIB as u64).expect("reads");
    put(2);
    let error = source.read_exact_at(&mut bytes, 2 * MIB as u64).expect_err("was replaced");
    assert!(matches!(error, SourceError::Storage(_)), "{error:?}");
    assert!(error.to_string().contains("changed while it was read"), "{error}");
}
