//! What services give out: tokens with a form of their own. One line of [`FORMATS`] is one form.
//!
//! Whatever the form, a token has a run of [`MIN_RUN`] letters, digits, `_` and `-`. Runs are found with bit masks, 64
//! bytes at a time: a bit for each such byte, and those bits kept that have as many set after them. Code has few runs of that
//! length, so the table may be long.

use super::literal::{holds, is_example, is_name, is_random, may_be_random};
use super::{Found, Kind, run_end, run_start};
use std::ops::RangeInclusive;
use std::sync::OnceLock;

/// The shortest run of any form: `AKIA` and 16 more, the header of a JWT.
const MIN_RUN: usize = 20;
/// Bytes that a mask is made of.
const BLOCK: usize = 64;
/// A failed look at more than this is not repeated from a place within it, so that work stays linear.
const LONG: usize = 512;

/// The most that stands before the run of a token that has a dot or slash before it: `patXXXXXXXXXXXXXX.`, `\ndt0c01.`.
const MAX_DOTTED_PREFIX: usize = 24;

/// Which bytes the rest of a token is made of.
#[derive(Clone, Copy)]
enum Alphabet {
    /// `0-9a-f`
    Hex,
    /// `0-9A-Z`
    Upper,
    /// `0-9a-z`
    Lower,
    /// `0-9A-Za-z`
    Alnum,
    /// The same and `_`, `-`.
    Word,
    /// The same and `.`.
    Dotted,
}
use Alphabet::{Alnum, Dotted, Hex, Lower, Upper, Word};

impl Alphabet {
    fn has(self, byte: u8) -> bool {
        match self {
            Hex => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            Upper => matches!(byte, b'0'..=b'9' | b'A'..=b'Z'),
            Lower => matches!(byte, b'0'..=b'9' | b'a'..=b'z'),
            Alnum => byte.is_ascii_alphanumeric(),
            Word => is_word(byte),
            Dotted => is_word(byte) || byte == b'.',
        }
    }
}

/// How a token is made: `prefix`, then so many bytes of `alphabet`, which `shape` accepts.
struct Format {
    kind: Kind,
    prefix: &'static str,
    alphabet: Alphabet,
    length: RangeInclusive<usize>,
    shape: fn(&[u8]) -> bool,
}

const fn format(
    kind: Kind,
    prefix: &'static str,
    alphabet: Alphabet,
    length: RangeInclusive<usize>,
) -> Format {
    Format { kind, prefix, alphabet, length, shape: may_be_random }
}

impl Format {
    const fn shaped(mut self, shape: fn(&[u8]) -> bool) -> Self {
        self.shape = shape;
        self
    }
}

/// Parts of these lengths, with a separator between them.
fn parts<const N: usize>(rest: &[u8], separator: u8, lengths: [usize; N]) -> bool {
    let mut parts = rest.split(|b| *b == separator);
    lengths.iter().all(|length| parts.next().is_some_and(|part| part.len() == *length))
        && parts.next().is_none()
}

/// What follows the first `eyJ`: two dots, a second part that is a JSON object too, unless it is encrypted (RFC 7516).
fn jwt(rest: &[u8]) -> bool {
    let mut parts = rest.split(|b| *b == b'.');
    let (Some(header), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let signed = payload.starts_with(b"eyJ") && parts.next().is_none();
    let encrypted = rest.iter().filter(|b| **b == b'.').count() == 4;
    header.len() >= 14 && payload.len() >= 10 && signature.len() >= 16 && (signed || encrypted)
}

/// At least so many digits, which names have not.
fn digits<const N: usize>(rest: &[u8]) -> bool {
    rest.iter().filter(|b| b.is_ascii_digit()).count() >= N && is_random(rest)
}

#[rustfmt::skip]
static FORMATS: &[Format] = &[
    format(Kind::AgeKey, "AGE-SECRET-KEY-1", Upper, 58..=58),
    format(Kind::AwsAccessKeyId, "AKIA", Upper, 16..=16),
    format(Kind::AwsAccessKeyId, "ASIA", Upper, 16..=16),
    format(Kind::AwsAccessKeyId, "ABIA", Upper, 16..=16),
    format(Kind::AwsAccessKeyId, "ACCA", Upper, 16..=16),
    format(Kind::GithubToken, "ghp_", Alnum, 36..=255),
    format(Kind::GithubToken, "gho_", Alnum, 36..=255),
    format(Kind::GithubToken, "ghu_", Alnum, 36..=255),
    format(Kind::GithubToken, "ghs_", Alnum, 36..=255),
    format(Kind::GithubToken, "ghr_", Alnum, 36..=255),
    format(Kind::GithubToken, "github_pat_", Word, 60..=255),
    format(Kind::GitlabToken, "glpat-", Dotted, 20..=300),
    format(Kind::GitlabToken, "gldt-", Dotted, 20..=300),
    format(Kind::GitlabToken, "glrt-", Dotted, 20..=300),
    format(Kind::GitlabToken, "glptt-", Word, 40..=64),
    format(Kind::GitlabToken, "glcbt-", Word, 20..=64),
    format(Kind::GitlabToken, "glsoat-", Word, 20..=64),
    format(Kind::GitlabToken, "glft-", Word, 20..=64),
    format(Kind::GitlabToken, "glimt-", Word, 20..=64),
    format(Kind::GitlabToken, "glagent-", Word, 50..=64),
    format(Kind::GitlabToken, "gloas-", Word, 40..=80),
    format(Kind::AtlassianToken, "ATATT3", Word, 60..=300),
    format(Kind::AtlassianToken, "ATCTT3", Word, 60..=300),
    format(Kind::AtlassianToken, "ATBB", Alnum, 24..=32),
    format(Kind::SlackToken, "xoxb-", Word, 20..=300).shaped(digits::<5>),
    format(Kind::SlackToken, "xoxp-", Word, 20..=300).shaped(digits::<5>),
    format(Kind::SlackToken, "xoxa-", Word, 20..=300).shaped(digits::<5>),
    format(Kind::SlackToken, "xoxr-", Word, 20..=300).shaped(digits::<5>),
    format(Kind::SlackToken, "xoxs-", Word, 20..=300).shaped(digits::<5>),
    format(Kind::SlackToken, "xoxe-", Word, 20..=300).shaped(digits::<5>),
    format(Kind::SlackToken, "xoxe.xoxp-", Word, 20..=300).shaped(digits::<5>),
    format(Kind::SlackToken, "xapp-", Word, 20..=300).shaped(digits::<5>),
    format(Kind::StripeKey, "sk_live_", Alnum, 16..=247),
    format(Kind::StripeKey, "sk_test_", Alnum, 16..=247),
    format(Kind::StripeKey, "rk_live_", Alnum, 16..=247),
    format(Kind::StripeKey, "rk_test_", Alnum, 16..=247),
    format(Kind::StripeKey, "whsec_", Alnum, 32..=64),
    format(Kind::SquareToken, "sq0atp-", Word, 22..=22),
    format(Kind::SquareToken, "sq0csp-", Word, 43..=43),
    format(Kind::SquareToken, "EAAA", Word, 60..=60),
    format(Kind::ShopifyToken, "shpat_", Hex, 32..=32),
    format(Kind::ShopifyToken, "shpca_", Hex, 32..=32),
    format(Kind::ShopifyToken, "shppa_", Hex, 32..=32),
    format(Kind::ShopifyToken, "shpss_", Hex, 32..=32),
    format(Kind::GoogleApiKey, "AIza", Word, 35..=35),
    format(Kind::GoogleOauth, "GOCSPX-", Word, 28..=28),
    format(Kind::GoogleOauth, "ya29.", Word, 20..=1024),
    format(Kind::GoogleOauth, "1//0", Word, 40..=200),
    format(Kind::NpmToken, "npm_", Alnum, 36..=36),
    format(Kind::PypiToken, "pypi-AgE", Word, 50..=500),
    format(Kind::RubygemsToken, "rubygems_", Hex, 48..=48),
    format(Kind::CratesToken, "cio", Alnum, 32..=32).shaped(digits::<2>),
    format(Kind::NugetKey, "oy2", Lower, 43..=43),
    format(Kind::DockerToken, "dckr_pat_", Word, 20..=64),
    format(Kind::DockerToken, "dckr_oat_", Word, 20..=64),
    format(Kind::HuggingFaceToken, "hf_", Alnum, 34..=40),
    format(Kind::HuggingFaceToken, "api_org_", Alnum, 34..=34),
    format(Kind::AnthropicKey, "sk-ant-", Word, 60..=140),
    format(Kind::OpenaiKey, "sk-proj-", Word, 40..=200),
    format(Kind::OpenaiKey, "sk-svcacct-", Word, 40..=200),
    format(Kind::OpenaiKey, "sk-admin-", Word, 40..=200),
    format(Kind::OpenaiKey, "sk-or-v1-", Hex, 64..=64),
    format(Kind::OpenaiKey, "sk-", Alnum, 32..=64),
    format(Kind::ReplicateToken, "r8_", Alnum, 37..=37),
    format(Kind::ModelServiceKey, "gsk_", Alnum, 52..=52),
    format(Kind::ModelServiceKey, "xai-", Alnum, 80..=80),
    format(Kind::ModelServiceKey, "pplx-", Alnum, 48..=56),
    format(Kind::TwilioKey, "SK", Hex, 32..=32),
    format(Kind::TwilioKey, "AC", Hex, 32..=32),
    format(Kind::SendgridKey, "SG.", Dotted, 66..=66).shaped(|rest| parts(rest, b'.', [22, 43])),
    format(Kind::MailgunKey, "key-", Hex, 32..=32),
    format(Kind::BrevoKey, "xkeysib-", Word, 81..=81).shaped(|rest| parts(rest, b'-', [64, 16])),
    format(Kind::BrevoKey, "xsmtpsib-", Word, 81..=81).shaped(|rest| parts(rest, b'-', [64, 16])),
    format(Kind::HerokuKey, "HRKU-", Word, 36..=80),
    format(Kind::DigitaloceanToken, "dop_v1_", Hex, 64..=64),
    format(Kind::DigitaloceanToken, "doo_v1_", Hex, 64..=64),
    format(Kind::DigitaloceanToken, "dor_v1_", Hex, 64..=64),
    format(Kind::AlibabaKey, "LTAI", Alnum, 16..=20),
    format(Kind::TencentKey, "AKID", Alnum, 32..=32),
    format(Kind::DatabricksToken, "dapi", Hex, 32..=32),
    format(Kind::HashicorpToken, "hvs.", Word, 24..=200),
    format(Kind::HashicorpToken, "hvb.", Word, 100..=300),
    format(Kind::HashicorpToken, "hvr.", Word, 24..=200),
    format(Kind::HashicorpToken, "atlasv1.", Word, 60..=70),
    format(Kind::PulumiToken, "pul-", Hex, 40..=40),
    format(Kind::DopplerToken, "dp.pt.", Alnum, 40..=44),
    format(Kind::DopplerToken, "dp.st.", Dotted, 40..=80),
    format(Kind::DopplerToken, "dp.ct.", Alnum, 40..=44),
    format(Kind::DopplerToken, "dp.sa.", Alnum, 40..=44),
    format(Kind::GrafanaToken, "glsa_", Word, 41..=41),
    format(Kind::GrafanaToken, "glc_eyJ", Alnum, 32..=400),
    format(Kind::NewRelicKey, "NRAK-", Upper, 27..=27),
    format(Kind::SentryToken, "sntrys_eyJ", Word, 60..=500),
    format(Kind::SentryToken, "sntryu_", Hex, 64..=64),
    format(Kind::DynatraceToken, "dt0c01.", Dotted, 89..=89).shaped(|rest| parts(rest, b'.', [24, 64])),
    format(Kind::PlanetscaleToken, "pscale_tkn_", Word, 32..=64),
    format(Kind::PlanetscaleToken, "pscale_pw_", Word, 32..=64),
    format(Kind::PlanetscaleToken, "pscale_oauth_", Word, 32..=64),
    format(Kind::SupabaseKey, "sbp_", Hex, 40..=40),
    format(Kind::SupabaseKey, "sb_secret_", Word, 31..=31),
    format(Kind::LinearKey, "lin_api_", Alnum, 40..=40),
    format(Kind::PostmanKey, "PMAK-", Word, 59..=59).shaped(|rest| parts(rest, b'-', [24, 34])),
    format(Kind::NotionToken, "ntn_", Alnum, 43..=50),
    format(Kind::NotionToken, "secret_", Alnum, 43..=43),
    format(Kind::AirtableToken, "pat", Dotted, 79..=79).shaped(|rest| parts(rest, b'.', [14, 64])),
    format(Kind::FigmaToken, "figd_", Word, 40..=60),
    format(Kind::DropboxToken, "sl.", Word, 130..=1200),
    format(Kind::FacebookToken, "EAA", Alnum, 100..=400),
    format(Kind::MapboxToken, "sk.eyJ", Dotted, 60..=200),
    format(Kind::ServiceToken, "nfp_", Alnum, 36..=36),
    format(Kind::ServiceToken, "fm2_", Alnum, 40..=800),
    format(Kind::ServiceToken, "bkua_", Hex, 40..=40),
    format(Kind::ServiceToken, "CCIPAT_", Word, 60..=80),
    format(Kind::ServiceToken, "sgp_", Word, 40..=70),
    format(Kind::ServiceToken, "pnu_", Alnum, 36..=36),
    format(Kind::ServiceToken, "shippo_live_", Hex, 40..=40),
    format(Kind::ServiceToken, "EZAK", Alnum, 54..=54),
    format(Kind::ServiceToken, "CFPAT-", Word, 43..=43),
    format(Kind::ServiceToken, "tfp_", Word, 40..=70),
    format(Kind::ServiceToken, "rdme_", Lower, 70..=70),
    format(Kind::ServiceToken, "ops_eyJ", Word, 200..=2000),
    format(Kind::Jwt, "eyJ", Dotted, 40..=8192).shaped(jwt),
];

/// The formats by the first byte of their prefix.
fn by_first_byte() -> &'static [Vec<&'static Format>; 128] {
    static TABLE: OnceLock<[Vec<&'static Format>; 128]> = OnceLock::new();
    TABLE.get_or_init(|| {
        std::array::from_fn(|byte| {
            FORMATS.iter().filter(|f| usize::from(f.prefix.as_bytes()[0]) == byte).collect()
        })
    })
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// Finds the tokens of `text`.
pub(super) fn find(text: &[u8], found: &mut Vec<Found>) {
    each_run(text, |start| {
        let end = run_end(text, start, usize::MAX, is_word);
        // Names in small letters are most of the runs, and no token is without digits and capitals.
        let plain = |any, byte: &u8| any | byte.is_ascii_digit() | byte.is_ascii_uppercase();
        if !text[start..end].iter().fold(false, plain) {
            return end;
        }
        tokens_of_run(text, start, end, found).max(end)
    });
}

/// Calls `visit` with the start of every run of [`MIN_RUN`] word bytes; it answers where to go on.
fn each_run(text: &[u8], mut visit: impl FnMut(usize) -> usize) {
    let (mut at, mut resume) = (0, 0);
    let mut runs = Runs::default();
    while at < text.len() {
        let words = match text[at..].first_chunk() {
            Some(block) => word_mask(block),
            None => {
                let mut block = [0; BLOCK];
                block[..text.len() - at].copy_from_slice(&text[at..]);
                word_mask(&block)
            }
        };
        let mut reached = runs.push(words);
        at += BLOCK;
        while reached != 0 {
            let start = at - BLOCK + reached.trailing_zeros() as usize + 1 - MIN_RUN;
            reached &= reached - 1;
            if start >= resume {
                resume = visit(start);
            }
        }
        if resume > at {
            (at, runs) = (resume, Runs::default());
        }
    }
}

/// Bit masks of the block before: of stage `i`, the bytes that have 0, 1, 3, 7, 15 and 19 more word bytes before them.
#[derive(Default)]
struct Runs([u64; 6]);

impl Runs {
    /// Takes the word bytes of the next block; a bit for each byte with which a run reaches [`MIN_RUN`].
    #[inline]
    fn push(&mut self, words: u64) -> u64 {
        let mut stage = words;
        for (before, shift) in self.0.iter_mut().zip([1, 2, 4, 8, 4]) {
            let shifted = stage << shift | *before >> (BLOCK - shift);
            *before = stage;
            stage &= shifted;
        }
        let first = stage & !(stage << 1 | self.0[5] >> (BLOCK - 1));
        self.0[5] = stage;
        first
    }
}

/// A bit for each word byte.
#[inline]
fn word_mask(block: &[u8; BLOCK]) -> u64 {
    let flags = block.map(|byte| {
        let letter = (byte | 32).wrapping_sub(b'a') < 26;
        let digit = byte.wrapping_sub(b'0') < 10;
        u8::from(letter | digit | (byte == b'_') | (byte == b'-'))
    });
    // The product gathers the low bits of eight bytes in the highest byte.
    let eights = flags.as_chunks::<8>().0.iter().enumerate();
    eights.fold(0, |mask, (i, eight)| {
        mask | u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56 << (8 * i)
    })
}

/// Looks for tokens that start in the run, or in a word or two before it; answers where the last look ended.
fn tokens_of_run(text: &[u8], start: usize, end: usize, found: &mut Vec<Found>) -> usize {
    let mut resume = start;
    // Some prefixes hold a dot or slashes, and the run is what comes after.
    if start > 0 && matches!(text[start - 1], b'.' | b'/') {
        let first = run_start(text, start, MAX_DOTTED_PREFIX, |b| is_word(b) || b == b'.' || b == b'/');
        for at in (first..start).filter(|at| may_start(text, *at)) {
            resume = resume.max(match_at(text, at, found));
        }
    }
    if resume == start {
        // Past what is glued to it: an escape, the sign of a list or of a diff.
        let first = first_start(text, start);
        let in_path = first > 0 && text[first - 1] == b'/';
        let first = run_end(text, first, end - first, |b| b == b'-' && !in_path);
        let matched = match_without_prefix(text, first, end, found);
        resume = if matched > first { matched } else { start };
    }
    let mut at = first_start(text, start);
    while at < end {
        if at >= resume {
            resume = resume.max(match_at(text, at, found));
        }
        // The next part of the run: what comes after `_` or `-`.
        let from = at.max(resume.min(end));
        let part_end = run_end(text, from, end - from, |b| b.is_ascii_alphanumeric());
        at = run_end(text, part_end, end - part_end, |b| b == b'_' || b == b'-');
    }
    resume
}

/// Where the first token of a run may start: at its start, or past the escape that is glued to it.
fn first_start(text: &[u8], start: usize) -> usize {
    let glued = start > 0 && matches!(text[start - 1], b'\\' | b'%');
    let past = (start + 1..start + 3).find(|at| may_start(text, *at));
    past.filter(|_| glued).unwrap_or(start)
}

/// Whether a token may start at `at`: no word goes on there, but for an escape, `\nghp_...` in a string or `%3Dghp_...` in
/// a URL.
fn may_start(text: &[u8], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map_or(b' ', |at| text[at]);
    let escape = before(2) == b'\\' && matches!(before(1), b'n' | b't' | b'r');
    let encoded = before(3) == b'%' && before(2).is_ascii_hexdigit() && before(1).is_ascii_hexdigit();
    !before(1).is_ascii_alphanumeric() || escape || encoded
}

/// Tries the formats at `at`; answers where to go on: the end of the token, or of what need not be looked at again.
fn match_at(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
    let mut resume = at;
    let Some(formats) = by_first_byte().get(usize::from(text[at])) else { return at };
    // Inside a block of base64 some letters happen to be those of a prefix.
    let base64 = at > 1 && matches!(text[at - 1], b'+' | b'/') && text[at - 2].is_ascii_alphanumeric();
    for format in formats {
        let prefix = format.prefix.as_bytes();
        if !text[at..].starts_with(prefix) || base64 && prefix.iter().all(u8::is_ascii_alphanumeric) {
            continue;
        }
        let rest = at + format.prefix.len();
        let most = *format.length.end();
        let mut end = run_end(text, rest, most + 1, |b| format.alphabet.has(b));
        if end - rest > LONG {
            resume = end;
        }
        // A dot at the end is the sentence's.
        if end - rest <= most {
            end -= text[rest..end].iter().rev().take_while(|b| **b == b'.').count();
        }
        let whole = text.get(end).is_none_or(|next| !next.is_ascii_alphanumeric());
        let body = &text[rest..end];
        if whole && format.length.contains(&body.len()) && (format.shape)(body) && !is_example(body) {
            found.push(Found { kind: format.kind, range: at..end });
            return end;
        }
    }
    resume
}

/// Tokens that are known by their whole form, and by what stands before them.
fn match_without_prefix(text: &[u8], start: usize, end: usize, found: &mut Vec<Found>) -> usize {
    let run = &text[start..end];
    let before = &text[start.saturating_sub(100)..start];
    let hex = |part: &[u8]| part.iter().all(|b| Hex.has(*b));
    let shape = |lengths: [usize; 3]| parts(run, b'-', lengths) && run.split(|b| *b == b'-').all(hex);
    let mut push = |kind, range: std::ops::Range<usize>| {
        let end = range.end;
        if is_example(&text[range.clone()]) {
            return start;
        }
        found.push(Found { kind, range });
        end
    };
    let slashed = before.ends_with(b"/") && may_be_random(run);
    if run.len() == 50 && shape([32, 8, 8]) && is_random(&run[..32]) {
        return push(Kind::MailgunKey, start..end);
    }
    if matches!(run.len(), 36 | 37) && hex(&run[..32]) && run[32..].starts_with(b"-us") {
        let number = run[35..].iter().all(u8::is_ascii_digit);
        return if number { push(Kind::MailchimpKey, start..end) } else { start };
    }
    if run.len() == 35 && before.ends_with(b":") && run.starts_with(b"AA") && is_random(run) {
        let digits = run_start(text, start - 1, 11, |b| b.is_ascii_digit());
        let id = (8..=10).contains(&(start - 1 - digits));
        return if id { push(Kind::TelegramToken, digits..end) } else { start };
    }
    if slashed && (60..=80).contains(&run.len()) && holds(before, b"/api/webhooks/") {
        return push(Kind::DiscordWebhook, start..end);
    }
    if let Some(length) = slack_path(before).filter(|_| slashed && (20..=28).contains(&run.len())) {
        return push(Kind::SlackWebhook, start - length..end);
    }
    match discord_end(text, start, end) {
        Some(end) => push(Kind::DiscordToken, start..end),
        None => start,
    }
}

/// The end of a bot token whose first part, the id in base64, is `start..end`.
fn discord_end(text: &[u8], start: usize, end: usize) -> Option<usize> {
    let first = &text[start..end];
    if !(24..=28).contains(&first.len()) || text.get(end) != Some(&b'.') {
        return None;
    }
    let stamp_end = run_end(text, end + 1, 8, is_word);
    let last_end = run_end(text, stamp_end + 1, 41, is_word);
    // The digits of an id, in base64, start with one of these.
    let id = matches!(first[0], b'M' | b'N' | b'O') && !first.contains(&b'-') && is_random(first);
    let lengths = stamp_end - (end + 1) == 6 && (27..=40).contains(&last_end.saturating_sub(stamp_end + 1));
    (text.get(stamp_end) == Some(&b'.') && id && lengths && is_random(&text[stamp_end + 1..last_end]))
        .then_some(last_end)
}

/// The length of `T.../B.../`, when that ends `before` and stands at Slack's webhooks.
fn slack_path(before: &[u8]) -> Option<usize> {
    const HOOKS: &[u8] = b"hooks.slack.com/services/";
    let at = before.windows(HOOKS.len()).rposition(|window| window == HOOKS)? + HOOKS.len();
    let path = &before[at..];
    let plain = path.iter().all(|b| is_name(&[*b]) || *b == b'/');
    (plain && path.first() == Some(&b'T') && path.iter().filter(|b| **b == b'/').count() == 2)
        .then_some(path.len())
}
