//! What the hub refuses, and what is refused of it.

use super::server::{COMMIT, Hub, Reply, Request, Server};
use super::{bytes, error, options, read, resolve, stream};
use crate::hub::Secret;
use std::time::Duration;

/// The error of a dataset of a server that answers in this way.
fn refused(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> String {
    let server = Server::start(answer);
    error(resolve("hub:owner/name", &options(&server.url(), None)))
}

/// The error of a dataset whose files are listed in this way.
fn listed(tree: &str) -> String {
    let tree = tree.to_owned();
    refused(move |request| {
        if request.target.contains("/tree/") {
            return Reply::new(200, tree.clone());
        }
        Reply::new(200, format!("{{\"sha\": \"{COMMIT}\"}}"))
    })
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let all = bytes(2_000_000);
    let hub = Hub::with(&[("a.jsonl", &all), ("b.jsonl", b"b")], 1, Some("hf_token"));
    let mut options = options(&hub.hub.url(), None);
    let gated = error(resolve("hub:owner/name", &options));
    assert!(gated.contains("HTTP 401 GatedRepo: ask first"), "{gated}");
    assert!(gated.contains("/datasets/owner/name, then set HF_TOKEN"), "{gated}");
    options.token = Some(Secret::new(" hf_wrong\n"));
    let wrong = error(resolve("hub:owner/name", &options));
    assert!(
        wrong.contains("with the account that the token belongs to") && !wrong.contains("hf_"),
        "{wrong}"
    );
    options.token = Some(Secret::new("hf_token"));
    let dataset = resolve("hub:owner/name", &options).expect("dataset");
    assert!(read(&*dataset.blob(0).expect("file"), 0).expect("bytes") == all);
    assert!(hub.hub.requests().iter().rev().take(4).all(|r| r.header("authorization").is_some()));
    let at_cdn = hub.cdn.requests();
    assert!(!at_cdn.is_empty() && at_cdn.iter().all(|r| r.header("authorization").is_none()));
    assert!(at_cdn.iter().all(|r| r.header("user-agent").is_some_and(|agent| agent.starts_with("eyas/"))));
}

#[test]
fn a_listing_comes_in_pages_and_mirrors_are_asked_for_all() {
    let names: Vec<String> = (0..7).map(|i| format!("{i}.jsonl")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let hub = Hub::with(&files, 3, None);
    let dataset = resolve("hub:owner/name@refs/pr/1", &options(&hub.hub.url(), None)).expect("dataset");
    assert_eq!(dataset.files().iter().map(|f| &f.path).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    let pages = hub.hub.requests().iter().filter(|r| r.target.contains("/tree/")).count();
    assert_eq!(pages, 3);
}

#[test]
fn names_that_do_not_exist() {
    let hub = Hub::start(&[("a.csv", b"x")]);
    let options = options(&hub.hub.url(), None);
    let dataset = error(resolve("hub:owner/other", &options));
    assert!(dataset.contains("no dataset owner/other: HTTP 404 RepoNotFound"), "{dataset}");
    assert!(dataset.contains("if the dataset is private, set HF_TOKEN"), "{dataset}");
    let revision = error(resolve("hub:owner/name@v9", &options));
    assert!(revision.contains("owner/name has no revision `v9`"), "{revision}");
    let data = error(resolve("hub:owner/name", &options));
    assert!(data.contains("it has 1 .csv") && data.contains("@refs/convert/parquet"), "{data}");
    let model = refused(|request| match request.target.as_str() {
        "/api/models/owner/name" => Reply::new(200, "{}"),
        _ => Reply::new(401, "").with("X-Error-Code", "RepoNotFound"),
    });
    assert!(model.contains("a model of that name"), "{model}");
    let token = error(resolve(
        "hub:owner/name",
        &crate::hub::HubOptions {
            token: Some(Secret::new("hf_x")),
            endpoint: Server::start(|_| Reply::new(401, "")).url(),
            ..options
        },
    ));
    // The server is gone by now, which is an error too, and shows no token either.
    assert!(!token.contains("hf_x"), "{token}");
}

#[test]
fn listings_that_no_hub_sends() {
    let oid = "0".repeat(40);
    let file =
        |path: &str| format!("[{{\"type\":\"file\",\"path\":\"{path}\",\"oid\":\"{oid}\",\"size\":1}}]");
    for path in ["../a.jsonl", "/a.jsonl", "a/../../b.jsonl", "a//b.jsonl", "", ".", "a\\u0000.jsonl"] {
        let error = listed(&file(path));
        assert!(error.contains("the name of a file"), "{error}");
    }
    for (tree, want) in [
        (file("a.jsonl").replace(&oid, "../../x"), "the hash of a file"),
        (file("a.jsonl").replace("\"size\":1", "\"size\":-1"), "JSON"),
        (file("a.jsonl").replace("]", ",") + file("a.jsonl").trim_start_matches('['), "`a.jsonl` twice"),
        ("<html>log in</html>".to_owned(), "`<html>log in</html>`"),
        ("[".repeat(100_000), "JSON"),
        (String::new(), "JSON"),
    ] {
        let error = listed(&tree);
        assert!(error.contains(want), "{error}");
    }
    let commit = refused(|_| Reply::new(200, "{\"sha\": \"../../../etc\"}"));
    assert!(commit.contains("sent a commit: expected 40 hexadecimal digits, got ../../../etc"), "{commit}");
}

#[test]
fn answers_without_end() {
    let huge = refused(|_| Reply::new(200, vec![b' '; (64 << 20) + 1]));
    assert!(huge.contains("at most 67108864 bytes"), "{huge}");
    let head = refused(|_| Reply::new(200, "{}").with("X-Large", "x".repeat(100_000)));
    assert!(head.contains("attempts"), "{head}");
    let pages = refused(|request| {
        if request.target.contains("/tree/") {
            return Reply::new(200, "[]").with("Link", "</api/again/tree/>; rel=\"next\"");
        }
        Reply::new(200, format!("{{\"sha\": \"{COMMIT}\"}}"))
    });
    assert!(pages.contains("expected files, since another page follows, got none"), "{pages}");
    let circle = refused(|_| Reply::new(302, "").with("Location", "/again"));
    assert!(circle.contains("sent redirects: expected at most 10, got more"), "{circle}");
    for nowhere in ["", "ftp://127.0.0.1/", "http://user@127.0.0.1/", "http://", "#"] {
        let error = refused(move |_| Reply::new(302, "").with("Location", nowhere));
        assert!(error.contains("a redirect") || error.contains("redirects"), "{error}");
    }
}

#[test]
fn answers_that_take_for_ever() {
    let ms = Duration::from_millis;
    let refused = |silence, reply: Reply| {
        let server = Server::start(move |_| reply.clone());
        let mut options = options(&server.url(), None);
        options.patience.silence = ms(silence);
        options.patience.num_attempts = 1;
        error(resolve("hub:owner/name", &options))
    };
    let silent = refused(100, Reply { delay: Some(ms(500)), ..Reply::new(200, "{}") });
    assert!(silent.contains("it fell silent"), "{silent}");
    let drip = refused(100, Reply { trickle: Some(ms(30)), ..Reply::new(200, vec![b' '; 1000]) });
    assert!(drip.contains("it fell silent"), "{drip}");
    let elsewhere = Reply::new(302, vec![b' '; 1000]).with("Location", "http://127.0.0.1:1/");
    let drip = refused(300, Reply { trickle: Some(ms(50)), ..elsewhere });
    assert!(drip.contains("cannot get http://127.0.0.1:1/"), "{drip}");
}

#[test]
fn endpoints_and_proxies_that_cannot_be() {
    for endpoint in ["", "huggingface.co", "ftp://a", "https://user:pass@a", "https://a?b", "https://a b"] {
        let error = error(resolve("hub:owner/name", &options(endpoint, None)));
        assert!(error.contains("HF_ENDPOINT is wrong") && !error.contains("pass"), "{error}");
    }
    for (proxy, want) in
        [("socks5://a:1", "SOCKS"), ("http://", "expected http://"), (":::", "expected http://")]
    {
        let mut options = options("https://127.0.0.1:1", None);
        options.proxy = Some(Secret::new(proxy));
        let error = error(resolve("hub:owner/name", &options));
        assert!(error.contains("HTTPS_PROXY") && error.contains(want), "{error}");
    }
}

#[test]
fn tls_is_spoken_with_whom_is_trusted() {
    let server = Server::start_tls(|request: &Request| match request.target.as_str() {
        target if target.contains("/tree/") => Reply::new(302, "").with("Location", "http://127.0.0.1:1/"),
        _ => Reply::new(200, format!("{{\"sha\": \"{COMMIT}\"}}")),
    });
    let mut options = options(&server.url().replace("http:", "https:"), None);
    let stranger = error(resolve("hub:owner/name", &options));
    assert!(stranger.contains("certificate") && stranger.contains("SSL_CERT_FILE"), "{stranger}");
    let dir = tempfile::tempdir().expect("folder");
    options.ca_file = Some(dir.path().join("authority.pem"));
    assert!(error(resolve("hub:owner/name", &options)).contains("cannot read the certificates in"));
    std::fs::write(dir.path().join("authority.pem"), "nothing").expect("file");
    assert!(error(resolve("hub:owner/name", &options)).contains("has no certificate in PEM"));
    std::fs::write(dir.path().join("authority.pem"), include_bytes!("tls/authority.pem")).expect("file");
    let downgraded = error(resolve("hub:owner/name", &options));
    assert!(downgraded.contains("a redirect out of TLS"), "{downgraded}");
    let plain = Server::start(|_| Reply::new(200, "{}"));
    options.patience.silence = Duration::from_millis(300);
    options.endpoint = plain.url().replace("http:", "https:");
    let none = error(resolve("hub:owner/name", &options));
    assert!(none.contains("cannot get https://127.0.0.1"), "{none}");
}

#[test]
fn a_redirect_to_the_hub_itself_keeps_the_token() {
    let server = Server::start(|request: &Request| match request.target.as_str() {
        "/api/datasets/owner/name/revision/main" => {
            Reply::new(307, "moved").with("Location", "/api/datasets/owner/renamed/revision/main")
        }
        _ if request.header("authorization").is_none() => Reply::new(401, ""),
        target if target.contains("/tree/") => Reply::new(200, "[]"),
        _ => Reply::new(200, format!("{{\"sha\": \"{COMMIT}\"}}")),
    });
    let mut options = options(&server.url(), None);
    options.token = Some(Secret::new("hf_token"));
    let error = error(resolve("hub:owner/name", &options));
    assert!(error.contains("it has no files"), "{error}");
}

#[test]
fn sizes_that_cannot_be_are_no_reason_to_begin() {
    let oid = "0".repeat(64);
    let size = u64::MAX;
    let lfs = format!("{{\"oid\":\"{oid}\",\"size\":{size}}}");
    let file =
        format!("{{\"type\":\"file\",\"path\":\"a.jsonl\",\"oid\":\"{oid}\",\"size\":1,\"lfs\":{lfs}}}");
    let server = Server::start(move |request| match request.target.contains("/tree/") {
        true => Reply::new(200, format!("[{file}]")),
        false => Reply::new(200, format!("{{\"sha\": \"{COMMIT}\"}}")),
    });
    let cache = tempfile::tempdir().expect("folder");
    let full =
        error(resolve("hub:owner/name", &options(&server.url(), Some(cache.path()))).expect("files").blob(0));
    assert!(full.contains("too little room: 18446744073709551615 bytes are still to come"), "{full}");
    let streamed =
        resolve("hub:owner/name", &options(&server.url(), None)).expect("files").blob(0).expect("a file");
    assert!(error(read(&*streamed, u64::MAX - 5)).contains("its size is"));
    assert_eq!(read(&*streamed, u64::MAX).expect("nothing"), b"");
}

#[test]
fn an_empty_file_is_not_asked_for() {
    let hub = Hub::start(&[("a.jsonl", b"")]);
    assert!(read(&*stream(&hub), 0).expect("bytes").is_empty());
    assert!(hub.cdn.requests().is_empty());
}
