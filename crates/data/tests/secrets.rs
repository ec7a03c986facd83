//! Secrets: planted ones are found, look-alikes are left alone, and no text whatever breaks a promise.

#[path = "secrets/planted.rs"]
mod planted;

use eyas_data::secrets::{Found, Kind, SecretCounts, redact};
use planted::{Random, plant};
use proptest::prelude::*;
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// What must hold of any text; returns what the redacted text is.
fn check(text: &str) -> String {
    let redacted = redact(text);
    let mut end = 0;
    for Found { range, .. } in &redacted.found {
        assert!(range.start >= end && range.start < range.end, "{range:?} in {text:?}");
        assert!(text.get(range.clone()).is_some(), "{range:?} cuts a character of {text:?}");
        end = range.end;
    }
    assert_eq!(redacted.found.is_empty(), matches!(redacted.text, Cow::Borrowed(_)));
    let again = redact(&redacted.text);
    assert_eq!(again.found, [], "redacted twice: {text:?} is {:?}", redacted.text);
    redacted.text.into_owned()
}

#[test]
fn a_thousand_planted_secrets_are_found() {
    const ROUNDS: usize = 20;
    let mut random = Random(7);
    let (mut num, mut missed, mut other_kind) = (0_usize, Vec::new(), 0_usize);
    for kind in Kind::ALL.iter().copied().cycle().take(ROUNDS * Kind::ALL.len()) {
        let planted = plant(kind, &mut random);
        let clean = check(&planted.text);
        let found = redact(&planted.text).found;
        num += 1;
        if clean.contains(&planted.secret) || found.is_empty() {
            missed.push(format!("{}: {} in {}", kind.name(), planted.secret, planted.text));
        } else if !found.iter().any(|found| found.kind == kind) {
            other_kind += 1;
        }
    }
    assert!(num >= 1000, "{num}");
    assert!(missed.len() * 100 <= num, "{} of {num} were missed:\n{}", missed.len(), missed.join("\n---\n"));
    assert!(other_kind * 50 <= num, "{other_kind} of {num} were taken for another kind");
}

/// What the redacted form of a text is.
#[test]
fn what_stays_and_what_goes() {
    let hex = "9f86d081884c7d659a2feaa0c55ad015";
    let cases = [
        ("author = 'Jane Roe <jane@roe.io>'", "author = 'Jane Roe <EMAIL>'".to_owned()),
        ("mail jane@roe.io, or bob@web.de.", "mail <EMAIL>, or <EMAIL>.".to_owned()),
        ("pg = \"postgres://app:Xk29qLm4@db/x\"", "pg = \"postgres://app:<PASSWORD>@db/x\"".to_owned()),
        ("u = 'amqp://app:p@ssW0rd9@mq:5672'", "u = 'amqp://app:<PASSWORD>@mq:5672'".to_owned()),
        (&format!("API_KEY='{hex}' # live"), "API_KEY='<KEY>' # live".to_owned()),
        (&format!("GET /v1?api_key={hex}&page=2"), "GET /v1?api_key=<KEY>&page=2".to_owned()),
        ("{\"password\": \"Sunshine2024!\"}", "{\"password\": \"<PASSWORD>\"}".to_owned()),
        ("curl -u jane:Xk29qLm4 https://roe.io", "curl -u jane:<PASSWORD> https://roe.io".to_owned()),
        ("CREATE USER a IDENTIFIED BY 'Xk29qLm4';", "CREATE USER a IDENTIFIED BY '<PASSWORD>';".to_owned()),
        ("login --password Xk29qLm4 --all", "login --password <PASSWORD> --all".to_owned()),
    ];
    for (text, want) in cases {
        assert_eq!(check(text), want);
    }
    let (begin, end) = ("-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----");
    let line = "MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn/ygWyF8PbnGy0AHB7MhgHcTz6sE2I2yPB";
    assert_eq!(check(&format!("{begin}\n{line}\n{line}\n{end}\n")), format!("{begin}\n<KEY>\n{end}\n"));
    let string = format!("K = \"{begin}\\n\" +\n  \"{line}\\n\" +\n  \"{line}\\n\" +\n  \"{end}\\n\";\n");
    assert_eq!(check(&string), format!("K = \"{begin}\\n\" +\n  \"<KEY>\\n\" +\n  \"{end}\\n\";\n"));
    assert_eq!(
        check(&format!("{begin}\n{line}\n{line}\nfn main() {{}}\n")),
        format!("{begin}\n<KEY>\nfn main() {{}}\n")
    );
}

#[test]
fn look_alikes_are_left_alone() {
    let texts = [
        "@property\ndef password(self):\n    return self._password",
        "import { x } from '@babel/core'; // lodash@4.17.21, react@18.2.0-next.1",
        "git clone git@github.com:acme/app.git && git remote add o ssh://git@gitlab.com/a/b",
        "y = W@x.mean(axis=0) + a@b.T + q@k.shape; icon@2x.png",
        "user@example.com, test@mail.example.org, noreply@github.com, you@yourdomain.com, root@localhost",
        "postgres://postgres:postgres@localhost/test http://user:password@host/ redis://:${REDIS_PASSWORD}@cache",
        "https://user:{password}@host https://<user>:<password>@host ftp://a:%s@b",
        "password = os.environ['DB_PASSWORD']\ntoken = get_token(\"name\")\nsecret = config.secret_name",
        "password = 'changeme'; pwd = \"xxxxxxxx\"; passwd: \"your-password\"; pass = '${PASS}'; password=\"\"",
        "pad_token = \"<|endoftext|>\"; token_type = \"Bearer\"; next_token = \"eyJhbGciOiJI\"; \"token\": \"string\"",
        "Basic usage of the bearer token is described below. Bearer authentication_required_here_now",
        "sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"",
        "id = '3d38a460-9756-4b91-9dda-2129a1460a97'; commit 4cc0430f1c2d3e4b5a697887a6b5c4d3e2f10abc",
        "AKIAIOSFODNN7EXAMPLE ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx sk-your-key-here xoxb-not-a-real-token-at-all",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
        "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQswCQYDVQQGEwJJ\n-----END CERTIFICATE-----",
        "if line.startswith('-----BEGIN PRIVATE KEY-----'):\n    read_key(line)\n    return line.endswith('-----END')",
        "<label for=\"password\">Password:</label><input type=\"password\" name=\"new_password1\" />",
        "self.api_key = api_key\nkey = f\"{prefix}_{suffix}\"\nAPI_KEY = None\nparser.add_argument(\"--token\", \"-t\")",
        "const PASSWORD_FIELD: &str = \"id_password_2\"; let access_token_url = \"https://acme.io/oauth2/token\";",
        "publicKeyToken=\"b77a5c561934e089\" \"AWS::AppSync::ApiKey\": \"3d104ea0be48564b\"",
        "test_that_a_very_long_function_name_with_many_words_is_not_a_token_of_any_kind ------------------------",
    ];
    for text in texts {
        assert_eq!(redact(text).found, [], "{text}");
        assert!(matches!(redact(text).text, Cow::Borrowed(_)));
    }
}

#[test]
fn kinds_are_named_and_counted() {
    assert!(Kind::ALL.len() >= 30);
    for (i, kind) in Kind::ALL.iter().enumerate() {
        assert_eq!(*kind as usize, i);
        assert!(kind.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", kind.name());
        assert!(!Kind::ALL[..i].iter().any(|other| other.name() == kind.name()), "{}", kind.name());
    }
    let mut counts = SecretCounts::default();
    counts.add(&redact("jane@roe.io bob@web.de").found);
    let mut all = SecretCounts::default();
    all.merge(&counts);
    all.merge(&counts);
    assert_eq!(all.total(), 4);
    assert_eq!(serde_json::to_string(&all).expect("a map"), r#"{"email":4}"#);
}

/// Megabytes of what starts every search: the work must stay linear. What is not takes hours; the limit is thirty times
/// what the slowest takes here, unoptimized and on a busy machine.
#[test]
fn hostile_text_takes_no_longer() {
    let pieces = [
        "@",
        "a@",
        "a.b@",
        "a@b.",
        "://",
        "x://a:b@",
        "x://a:",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----",
        "eyJ",
        "eyJ-",
        "eyJa.eyJ",
        "AKIA",
        "sk-",
        "glpat-",
        "1//0",
        "xoxb-",
        "-",
        "_a",
        "a",
        "A0",
        "password",
        "password=",
        "password=\"",
        "token:'",
        "secret\\",
        "$2b$",
        "Bearer ",
        "Basic ",
        "sig=",
        "IDENTIFIED BY '",
        "-----BEGIN PRIVATE KEY-----MIIEpAIBAAKCAQEA0Z3VS5",
        " -u a:",
        "ghp_.",
        "AAAA.",
        "/T/B/",
        "<password>",
        "--token ",
        "é@",
        "Private-Lines: 9",
    ];
    for (i, piece) in pieces.into_iter().enumerate() {
        let num_bytes = if i < 12 { 10_000_000 } else { 3_000_000 };
        let text = piece.repeat(num_bytes / piece.len());
        let start = Instant::now();
        let redacted = redact(&text);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(30), "{piece:?} took {took:?}");
        assert!(redacted.text.len() <= 2 * text.len());
    }
}

/// Text in which secrets, parts of them, and what stands around them meet at random.
fn pieces() -> impl Strategy<Value = String> {
    let fixed = [
        "password",
        "token",
        "api_key",
        "secret",
        "PWD",
        "Key",
        "=",
        ":",
        " = ",
        ": ",
        "\"",
        "'",
        "`",
        "\\",
        "\\n",
        "\n",
        "\r\n",
        " ",
        "@",
        "://",
        ".",
        ",",
        "<",
        ">",
        "</",
        "-",
        "_",
        "/",
        "%3D",
        "&",
        "?",
        "(",
        ")",
        "$",
        "+",
        "é",
        "日本",
        "\u{1f980}",
        "a",
        "Zq9",
        "com",
        ".com",
        ".io",
        "jane@roe.io",
        "x://a:Xk29qLm4@h",
        "Xk29qLm4!",
        "9f86d081884c7d659a2feaa0c55ad015",
        "eyJhbGciOiJIUzI1NiJ9",
        "Bearer ",
        "Basic ",
        "-u ",
        "curl ",
        "-----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY-----",
        "MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn",
        "<KEY>",
        "<PASSWORD>",
        "<EMAIL>",
        "sig=",
        "se=",
        "$2b$12$",
        "IDENTIFIED BY ",
        "AKIA",
        "ghp_",
        "sk-",
        "hooks.slack.com/services/",
        "Private-Lines: 3",
        "export ",
        "#define ",
    ];
    let planted = (any::<u64>(), 0..Kind::ALL.len())
        .prop_map(|(seed, kind)| plant(Kind::ALL[kind], &mut Random(seed)).text);
    let piece = prop_oneof![8 => proptest::sample::select(fixed.to_vec()).prop_map(String::from), 1 => planted, 1 => ".{0,8}"];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn any_string_is_safe(text in "\\PC*") {
        check(&text);
    }

    #[test]
    fn any_mixture_is_safe(text in pieces()) {
        check(&text);
    }
}
