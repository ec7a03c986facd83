//! Files kept in the cache that Python has too.

use super::server::{COMMIT, Hub, Reply, git_hash, sha256};
use super::{bytes, error, listen, options, read, resolve};
use crate::hub::HubEvent;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn blob_path(cache: &Path, all: &[u8]) -> PathBuf {
    cache.join("datasets--owner--name/blobs").join(sha256(all))
}

fn partial_path(cache: &Path, all: &[u8]) -> PathBuf {
    cache.join("datasets--owner--name/blobs").join(sha256(all) + ".incomplete")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// The bytes of the first file, downloaded from `hub` into `cache`.
fn download(hub: &Hub, cache: &Path) -> Result<Vec<u8>, crate::Error> {
    let blob = resolve("hub:owner/name", &options(&hub.hub.url(), Some(cache)))?.blob(0)?;
    Ok(read(&*blob, 0).expect("a file of the cache"))
}

#[test]
fn the_cache_has_the_layout_of_python() {
    let cache = tempfile::tempdir().expect("folder");
    let (large, small) = (bytes(2_500_000), b"{\"text\": 1}\n");
    let hub = Hub::start(&[("d/x/a b.jsonl", &large), ("d/small.json", small), ("README.md", b"#")]);
    let mut options = options(&hub.hub.url(), Some(cache.path()));
    let events = listen(&mut options);
    let dataset = resolve("hub:owner/name", &options).expect("dataset");
    assert_eq!(dataset.commit(), COMMIT);
    assert_eq!(
        dataset.summary(),
        "hub:owner/name at commit 0123456789ab: 2 files, 2.5 MB, in 2 folders (d, d/x)"
    );
    for (index, want) in [(0, &small[..]), (1, &large)] {
        assert!(read(&*dataset.blob(index).expect("file"), 0).expect("bytes") == want);
    }
    let home = cache.path().join("datasets--owner--name");
    assert_eq!(names(cache.path()), [".locks", "datasets--owner--name"]);
    assert_eq!(names(&home), ["blobs", "refs", "snapshots", "trees"]);
    let mut blobs = [git_hash(small), sha256(&large)];
    blobs.sort();
    assert_eq!(names(&home.join("blobs")), blobs);
    assert_eq!(fs::read_to_string(home.join("refs/main")).expect("ref"), COMMIT);
    let link = home.join("snapshots").join(COMMIT).join("d/x/a b.jsonl");
    let target = fs::read_link(&link).expect("a link");
    assert_eq!(target, Path::new("../../../../blobs").join(sha256(&large)));
    let tree = fs::read_to_string(home.join("trees").join(format!("{COMMIT}.json"))).expect("tree");
    let tree: serde_json::Value = serde_json::from_str(&tree).expect("JSON");
    assert_eq!(tree["files"]["d/x/a b.jsonl"]["lfs_sha256"], sha256(&large));
    let last = events.lock().expect("events").last().cloned();
    let (file, num) = ("d/x/a b.jsonl".to_owned(), large.len() as u64);
    assert_eq!(last, Some(HubEvent::Downloaded { file, num_bytes: num, total_bytes: num }));
}

#[test]
fn what_is_in_the_cache_is_not_asked_for_again() {
    let cache = tempfile::tempdir().expect("folder");
    let all = bytes(100_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    assert!(download(&hub, cache.path()).expect("file") == all);
    let (at_hub, at_cdn) = (hub.hub.requests().len(), hub.cdn.requests().len());
    assert!(download(&hub, cache.path()).expect("file") == all);
    // Only what `main` is now.
    assert_eq!((hub.hub.requests().len() - at_hub, hub.cdn.requests().len() - at_cdn), (1, 0));
    let mut options = options(&hub.hub.url(), Some(cache.path()));
    let at_hub = hub.hub.requests().len();
    // A commit is what it was, so nothing is asked at all.
    let pinned = format!("hub:owner/name@{COMMIT}");
    assert!(
        read(&*resolve(&pinned, &options).expect("dataset").blob(0).expect("file"), 0).expect("bytes") == all
    );
    options.offline = true;
    for id in ["hub:owner/name", &pinned] {
        let blob = resolve(id, &options).expect("dataset").blob(0).expect("file");
        assert!(read(&*blob, 0).expect("bytes") == all);
    }
    options.offline = false;
    options.streaming = true;
    assert!(resolve(&pinned, &options).expect("dataset").blob(0).expect("file").name().contains("snapshots"));
    assert_eq!(hub.hub.requests().len(), at_hub);
}

#[test]
fn a_download_goes_on_where_it_was_left() {
    let cache = tempfile::tempdir().expect("folder");
    let all = bytes(700_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    for _ in 0..4 {
        hub.fault(|_, reply| Reply { cut: Some(10_000), ..reply });
    }
    let broken = error(download(&hub, cache.path()));
    assert!(broken.contains("attempts: 4"), "{broken}");
    assert!(!blob_path(cache.path(), &all).exists());
    let there = fs::metadata(partial_path(cache.path(), &all)).expect("a part").len();
    assert_eq!(there, 40_000);
    let before = hub.cdn.requests().len();
    assert!(download(&hub, cache.path()).expect("file") == all);
    assert_eq!(hub.cdn.requests()[before].range(), Some((40_000, 700_000)));
    assert!(!partial_path(cache.path(), &all).exists());
}

#[test]
fn a_part_that_is_wrong_is_thrown_away() {
    let all = bytes(300_000);
    let altered: Vec<u8> = all.iter().map(|byte| byte ^ 1).collect();
    let too_long = [&all[..], b"more"].concat();
    for part in [&altered[..1000], &altered[..], &too_long, &all, b""] {
        let cache = tempfile::tempdir().expect("folder");
        let path = partial_path(cache.path(), &all);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        fs::write(&path, part).expect("part");
        let hub = Hub::start(&[("a.jsonl", &all)]);
        assert!(download(&hub, cache.path()).expect("file") == all);
        assert_eq!(names(path.parent().expect("a parent")), [sha256(&all)]);
    }
}

#[test]
fn what_was_altered_on_its_way_is_not_kept() {
    let cache = tempfile::tempdir().expect("folder");
    let all = bytes(300_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    hub.fault(|_, mut reply| {
        reply.body[77] ^= 4;
        reply
    });
    let wrong = error(download(&hub, cache.path()));
    assert!(wrong.contains("its hash is"), "{wrong}");
    assert!(names(&cache.path().join("datasets--owner--name/blobs")).is_empty());
    assert!(download(&hub, cache.path()).expect("file") == all);
}

#[test]
fn a_blob_that_was_cut_off_is_made_whole() {
    let cache = tempfile::tempdir().expect("folder");
    let all = bytes(5000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    assert!(download(&hub, cache.path()).expect("file") == all);
    fs::write(blob_path(cache.path(), &all), &all[..10]).expect("a shorter file");
    assert!(download(&hub, cache.path()).expect("file") == all);
}

#[test]
fn two_downloads_of_one_file_are_one() {
    let cache = tempfile::tempdir().expect("folder");
    let all = bytes(3_000_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    hub.fault(|_, reply| Reply { delay: Some(Duration::from_millis(200)), ..reply });
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| download(&hub, cache.path()))).collect();
        for run in runs {
            assert!(run.join().expect("no panic").expect("file") == all);
        }
    });
    assert_eq!(hub.cdn.requests().len(), 1);
}

/// Another process that downloads the first file.
fn start_process(hub: &Hub, cache: &Path) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "hub::tests::downloads::a_process_of_its_own", "--ignored"])
        .env("EYAS_TEST_ENDPOINT", hub.hub.url())
        .env("EYAS_TEST_CACHE", cache)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("a process")
}

#[test]
#[ignore = "other tests start it"]
fn a_process_of_its_own() {
    let (Ok(endpoint), Some(cache)) =
        (std::env::var("EYAS_TEST_ENDPOINT"), std::env::var_os("EYAS_TEST_CACHE"))
    else {
        return;
    };
    let mut options = options(&endpoint, Some(Path::new(&cache)));
    options.patience.silence = Duration::from_secs(10);
    resolve("hub:owner/name", &options).expect("dataset").blob(0).expect("a file");
}

#[test]
fn two_processes_download_a_file_once() {
    let cache = tempfile::tempdir().expect("folder");
    let all = bytes(300_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    hub.fault(|_, reply| Reply { delay: Some(Duration::from_millis(300)), ..reply });
    let mut processes = [start_process(&hub, cache.path()), start_process(&hub, cache.path())];
    assert!(processes.iter_mut().all(|process| process.wait().expect("its end").success()));
    assert_eq!(hub.cdn.requests().len(), 1);
    assert!(fs::read(blob_path(cache.path(), &all)).expect("a blob") == all);
}

#[test]
fn a_process_that_was_killed_leaves_a_part_and_no_lock() {
    let cache = tempfile::tempdir().expect("folder");
    let all = bytes(300_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    hub.fault(|_, reply| Reply { stall: Some((100_000, Duration::from_secs(5))), ..reply });
    let mut process = start_process(&hub, cache.path());
    let part = partial_path(cache.path(), &all);
    let start = std::time::Instant::now();
    while fs::metadata(&part).map_or(0, |part| part.len()) < 100_000 {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing came");
        std::thread::sleep(Duration::from_millis(10));
    }
    process.kill().expect("a signal");
    process.wait().expect("its end");
    assert!(!blob_path(cache.path(), &all).exists());
    assert!(download(&hub, cache.path()).expect("file") == all);
    assert_eq!(hub.cdn.requests()[1].range(), Some((100_000, 300_000)));
}

#[test]
fn a_server_without_ranges_can_be_downloaded_from() {
    let cache = tempfile::tempdir().expect("folder");
    let all = bytes(400_000);
    let hub = Hub::start(&[("a.jsonl", &all)]);
    for cut in [Some(150_000), None] {
        let copy = all.clone();
        hub.fault(move |_, _| Reply { cut, ..Reply::new(200, copy) });
    }
    assert!(download(&hub, cache.path()).expect("file") == all);
}

#[test]
fn offline_says_what_is_missing_and_how_to_get_it() {
    let cache = tempfile::tempdir().expect("folder");
    let hub = Hub::start(&[("a.jsonl", &bytes(10)), ("b.jsonl", &bytes(2000)), ("c.jsonl", b"c")]);
    let online = options(&hub.hub.url(), Some(cache.path()));
    let mut offline = online.clone();
    offline.offline = true;
    let nothing = error(resolve("hub:owner/name", &offline));
    assert!(
        nothing.contains("lacks revision `main` of the dataset owner/name, and the hub may not be asked"),
        "{nothing}"
    );
    assert!(nothing.contains("run it once without HF_HUB_OFFLINE"), "{nothing}");
    resolve("hub:owner/name", &online).expect("dataset").blob(0).expect("file");
    let some = error(resolve("hub:owner/name", &offline));
    assert!(
        some.contains("lacks 2 of 3 files (2.0 kB)") && some.contains("the first of them b.jsonl"),
        "{some}"
    );
    resolve("hub:owner/name:a.jsonl", &offline).expect("all that is asked for");
    let no_cache = crate::hub::HubOptions { cache_dir: None, ..offline };
    assert!(error(resolve("hub:owner/name", &no_cache)).contains("set HF_HUB_CACHE"));
}

#[test]
fn files_that_python_downloaded_are_found_without_a_listing() {
    let cache = tempfile::tempdir().expect("folder");
    let home = cache.path().join("datasets--owner--name");
    let snapshot = home.join("snapshots").join(COMMIT);
    fs::create_dir_all(snapshot.join("data")).expect("folder");
    fs::create_dir_all(home.join("refs/refs/pr")).expect("folder");
    fs::create_dir_all(home.join("blobs")).expect("folder");
    fs::write(home.join("blobs/etag"), "{}\n").expect("blob");
    std::os::unix::fs::symlink("../../../blobs/etag", snapshot.join("data/a.jsonl")).expect("link");
    std::os::unix::fs::symlink("../../blobs/none", snapshot.join("b.jsonl")).expect("a link to nothing");
    fs::write(home.join("refs/refs/pr/1"), COMMIT).expect("ref");
    let mut options = options("http://127.0.0.1:1", Some(cache.path()));
    options.offline = true;
    let dataset = resolve("hub:owner/name@refs/pr/1", &options).expect("dataset");
    assert_eq!(dataset.files().len(), 1);
    assert_eq!(read(&*dataset.blob(0).expect("file"), 0).expect("bytes"), b"{}\n");
}

#[test]
fn without_a_network_the_cache_is_pointed_at() {
    let cache = tempfile::tempdir().expect("folder");
    let hub = Hub::start(&[("a.jsonl", b"x")]);
    assert_eq!(download(&hub, cache.path()).expect("file"), b"x");
    let unreachable = options("http://127.0.0.1:1", Some(cache.path()));
    let error = error(resolve("hub:owner/name", &unreachable));
    assert!(error.contains("(attempts: 2)") && error.contains("HF_HUB_OFFLINE=1"), "{error}");
}

#[test]
fn a_download_needs_a_place() {
    let hub = Hub::start(&[("a.jsonl", b"x")]);
    let mut options = options(&hub.hub.url(), None);
    options.streaming = false;
    let nowhere = error(resolve("hub:owner/name", &options).expect("dataset").blob(0));
    assert!(nowhere.contains("HF_HUB_CACHE"), "{nowhere}");
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("file");
    options.cache_dir = Some(file);
    let error = error(resolve("hub:owner/name", &options));
    assert!(error.contains("cannot create"), "{error}");
}
