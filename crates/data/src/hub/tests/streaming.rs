//! Files read where they are, over a network that fails.

use super::server::{Hub, Reply};
use super::{bytes, error, listen, options, read, resolve, stream};
use crate::hub::HubEvent;
use std::io::Read;
use std::time::Duration;

#[test]
fn a_file_is_read_from_any_place() {
    let all = bytes(3_000_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    let blob = stream(&hub);
    assert_eq!(blob.len(), 3_000_000);
    assert!(blob.name().starts_with("hub:owner/name@0123456789ab:a.jsonl"), "{}", blob.name());
    for offset in [0, 1, 999_999, 1 << 20, 2_999_999, 3_000_000, 3_000_001] {
        let want = all.get(offset..).unwrap_or_default();
        assert!(read(&*blob, offset as u64).expect("bytes") == want, "from {offset}");
    }
}

#[test]
fn ranges_grow_and_connections_are_kept() {
    let all = bytes(7 << 20);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    let blob = stream(&hub);
    for _ in 0..3 {
        assert!(read(&*blob, 0).expect("bytes") == all);
    }
    let ranges: Vec<_> = hub.cdn.requests().iter().map(|r| r.range().expect("a range")).collect();
    let mib = 1 << 20;
    assert_eq!(ranges[..3], [(0, mib), (mib, 5 * mib), (5 * mib, 7 * mib)]);
    assert_eq!(hub.cdn.num_connections(), 1);
    // The hub is asked for the commit, the files, and once where the file lies.
    assert_eq!(hub.hub.requests().len(), 3);
    assert_eq!(hub.hub.num_connections(), 1);
}

#[test]
fn a_dropped_connection_goes_on_at_the_byte_reached() {
    let all = bytes(900_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    for end in [0, 1, 70_000, 300_000] {
        hub.fault(move |_, reply| Reply { cut: Some(end), ..reply });
    }
    assert!(read(&*stream(&hub), 0).expect("bytes") == all);
    let starts: Vec<usize> = hub.cdn.requests().iter().map(|r| r.range().expect("a range").0).collect();
    assert_eq!(starts, [0, 0, 1, 70_001, 370_001]);
}

#[test]
fn a_busy_hub_is_asked_again_when_it_says() {
    let all = bytes(1000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    hub.fault(|_, _| Reply::new(429, "slow down").with("Retry-After", 1));
    hub.fault(|_, _| Reply::new(503, ""));
    hub.fault(|_, _| Reply::new(429, "").with("RateLimit", "\"resolvers\";r=0;t=1"));
    let mut options = options(&hub.hub.url(), None);
    let events = listen(&mut options);
    let dataset = resolve("hub:owner/name", &options).expect("dataset");
    assert!(read(&*dataset.blob(0).expect("file"), 0).expect("bytes") == all);
    let waits: Vec<Duration> = events
        .lock()
        .expect("events")
        .iter()
        .map(|event| match event {
            HubEvent::Waiting { wait, .. } => *wait,
            other => panic!("{other:?}"),
        })
        .collect();
    let second = Duration::from_secs(1);
    assert_eq!((waits.len(), waits[0], waits[2]), (3, second, second));
    assert!(waits[1] < second);
}

#[test]
fn a_hub_that_asks_for_too_much_time_is_given_up() {
    let hub = Hub::start(&[("a.jsonl", b"x")]);
    hub.fault(|_, _| Reply::new(429, "").with("Retry-After", 3600));
    let error = error(read(&*stream(&hub), 0));
    assert!(error.contains("HTTP 429") && error.contains("left alone for 3600 s"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn a_hub_that_stays_down_is_given_up() {
    let hub = Hub::start(&[("a.jsonl", b"x")]);
    for _ in 0..20 {
        hub.fault(|_, _| Reply::new(503, ""));
    }
    let error = error(read(&*stream(&hub), 0));
    assert!(error.contains("HTTP 503 (attempts: 4)"), "{error}");
}

#[test]
fn progress_renews_patience() {
    let all = bytes(2_000_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    for _ in 0..20 {
        hub.fault(|_, reply| Reply { cut: Some(80_000), ..reply });
    }
    assert!(read(&*stream(&hub), 0).expect("bytes") == all);
}

#[test]
fn a_server_without_ranges_is_read_from_its_start() {
    let all = bytes(500_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    let whole = |all: &[u8]| Reply::new(200, all).with("ETag", "\"opaque-1\"");
    let blob = stream(&hub);
    let copy = all.clone();
    hub.fault(move |_, _| whole(&copy));
    assert!(read(&*blob, 123_456).expect("bytes") == all[123_456..]);
    for cut in [Some(100_000), Some(200_000), None] {
        let copy = all.clone();
        hub.fault(move |_, _| Reply { cut, ..whole(&copy) });
    }
    assert!(read(&*blob, 0).expect("bytes") == all);
}

#[test]
fn an_address_that_ended_is_asked_for_again() {
    let all = bytes(3 << 20);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    hub.fault(|_, reply| reply);
    hub.fault(|_, _| Reply::new(403, "expired"));
    assert!(read(&*stream(&hub), 0).expect("bytes") == all);
    let resolved = hub.hub.requests().iter().filter(|r| r.target.contains("/resolve/")).count();
    assert_eq!(resolved, 2);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let all = bytes(3 << 20);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    hub.fault(|_, reply| reply);
    hub.fault(|_, reply| reply.with("ETag", "\"opaque-2\""));
    let mut reader = stream(&hub).read_from(0).expect("a reader");
    let mut some = vec![0; 1 << 20];
    reader.read_exact(&mut some).expect("the first range");
    let error = error(reader.read(&mut some));
    assert!(error.contains("its ETag is opaque-2, expected opaque-1"), "{error}");
    let second = &hub.cdn.requests()[1];
    assert_eq!(second.header("if-range"), Some("\"opaque-1\""));
}

#[test]
fn no_range_is_asked_for_by_a_weak_etag() {
    let all = bytes(3 << 20);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    for _ in 0..2 {
        hub.fault(|_, reply| reply.with("ETag", "W/\"weak\""));
    }
    assert!(read(&*stream(&hub), 0).expect("bytes") == all);
    assert!(hub.cdn.requests().iter().all(|request| request.header("if-range").is_none()));
}

#[test]
fn another_file_than_the_listed_one_is_refused() {
    let all = bytes(1000);
    let other = "0".repeat(64);
    let faults: Vec<(Reply, &str)> = vec![
        (Reply::new(206, &all[..]).with("ETag", format!("\"{other}\"")), "its ETag is 0000"),
        (
            Reply::new(206, &all[..]).with("Content-Range", "bytes 0-999/1001"),
            "its size is 1001, expected 1000",
        ),
        (Reply::new(200, &all[1..]), "its size is 999, expected 1000"),
        (Reply::new(416, "").with("Content-Range", "bytes */0"), "its size is at most 0"),
        (Reply::new(206, &all[..]), "expected bytes 0-999/1000, got ``"),
        (Reply::new(206, &all[..]).with("Content-Range", "bytes 1-999/1000"), "expected bytes 0-999/1000"),
        (Reply::new(206, &all[..]).with("Content-Range", "bytes 0-1999/1000"), "expected bytes 0-999/1000"),
        (Reply::new(206, &all[..]).with("Content-Range", "bytes 0-99/1000"), "expected bytes 0-999/1000"),
        (
            Reply::new(206, &all[1..]).with("Content-Range", "bytes 0-999/1000"),
            "expected 1000 bytes, got another length",
        ),
        (Reply::new(200, &all[..]).with("Content-Encoding", "gzip"), "content-encoding gzip"),
    ];
    for (reply, want) in faults {
        let hub = Hub::start(&[("a.jsonl", &all)]);
        hub.fault(move |_, _| reply);
        let error = error(read(&*stream(&hub), 0));
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn a_stream_that_was_altered_fails_at_its_end() {
    let all = bytes(2_000_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    hub.fault(|_, mut reply| {
        reply.body[5] ^= 1;
        reply
    });
    let blob = stream(&hub);
    let error = error(read(&*blob, 0));
    assert!(error.contains("its hash is"), "{error}");
    // Files in git are verified as git does it.
    let small = Hub::start(&[("small.jsonl", &all)]);
    assert!(read(&*stream(&small), 0).expect("bytes") == all);
    assert!(small.cdn.requests().is_empty());
}

#[test]
fn a_server_that_drips_is_as_good_as_dead() {
    let all = bytes(10_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    let mut options = options(&hub.hub.url(), None);
    options.patience.silence = Duration::from_millis(500);
    options.patience.num_attempts = 2;
    let dataset = resolve("hub:owner/name", &options).expect("dataset");
    for _ in 0..2 {
        hub.fault(|_, reply| Reply { trickle: Some(Duration::from_millis(20)), ..reply });
    }
    let slow = error(read(&*dataset.blob(0).expect("file"), 0));
    assert!(slow.contains("less than 1 kB a second (attempts: 2)"), "{slow}");
    for _ in 0..2 {
        hub.fault(|_, reply| Reply { delay: Some(Duration::from_millis(1500)), ..reply });
    }
    let silent = error(read(&*dataset.blob(0).expect("file"), 0));
    assert!(silent.contains("it fell silent (attempts: 2)"), "{silent}");
}
