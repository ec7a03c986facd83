//! What the headers of an answer say: its ETag, the next page, and how long to wait.

use std::time::{Duration, SystemTime};
use ureq::http::HeaderMap;

/// The link to the next page of a `Link` header: `<https://...>; rel="next"`.
pub(super) fn next_link(header: &str) -> Option<&str> {
    header.split('<').skip(1).find_map(|link| {
        let (address, parameters) = link.split_once('>')?;
        let rel = |p: &str| p.trim().trim_end_matches(',').trim().replace('"', "") == "rel=next";
        parameters.split(';').any(rel).then_some(address)
    })
}

/// How long a server asks to be left alone: `Retry-After`, in seconds or as a date, or the hub's own
/// `RateLimit: "api";r=0;t=55`.
pub(super) fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |text: &str| text.trim().parse().ok().map(Duration::from_secs);
    let until = |text: &str| date(text)?.duration_since(SystemTime::now()).ok();
    let rate_limit = || header(headers, "ratelimit")?.split(';').find_map(|p| p.trim().strip_prefix("t="));
    let retry_after = header(headers, "retry-after").and_then(|text| seconds(text).or_else(|| until(text)));
    retry_after.or_else(|| rate_limit().and_then(seconds))
}

/// A date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, text) = text.split_once(", ")?;
    let [day, month, year, time, "GMT"] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let (day, year) = (day.parse::<u64>().ok()?, year.parse::<u64>().ok()?);
    let time: Vec<u64> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hour, minute, second] = time[..] else { return None };
    if !(1..=31).contains(&day) || !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years begin in March here, so that the day that some of them lack is their last; then months have 30.6 days.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + day - 1;
    let seconds = (days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An ETag without its quotes, and without the mark that it is a weak one.
pub(super) fn etag(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = header(headers, name)?;
    let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    (!text.is_empty() && text.len() <= 256 && !text.contains('"')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let seconds =
            |text| date(text).map(|d| d.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs());
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(seconds("Fri, 01 Mar 2024 00:00:00 GMT"), Some(1_709_251_200));
        for text in
            ["", "5", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 99 Nov 1994 08:49:37 GMT", "x, 1 y 2 3:4:5 GMT"]
        {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn links() {
        assert_eq!(next_link("<https://a/b?c=d>; rel=\"next\""), Some("https://a/b?c=d"));
        assert_eq!(next_link("<x>; rel=\"prev\", <y>; title=a; rel=next"), Some("y"));
        for none in ["", "<x>", "<x>; rel=\"last\"", "x; rel=\"next\"", "<x"] {
            assert_eq!(next_link(none), None, "{none}");
        }
    }
}
