//! What a refusal of the hub means: there is nothing of that name, one must ask first, or something else.

use super::error::HubError;
use super::http::{Client, Get, Status};
use super::id::HubId;

/// The error that a status which does not pass stands for.
pub(super) fn refusal(client: &Client, id: &HubId, status: &Status) -> HubError {
    let dataset = id.name().to_owned();
    match (status.code.as_str(), status.status) {
        _ if !status.is_home => other(status),
        ("RevisionNotFound", _) => HubError::Revision { dataset, revision: id.revision().to_owned() },
        ("GatedRepo", _) => {
            HubError::Denied { what: describe(status), hint: gated_hint(client, id), dataset }
        }
        ("RepoNotFound", _) | ("", 404) => not_found(client, id, status),
        ("", 401) if !client.has_token() => not_found(client, id, status),
        (_, 401) => HubError::Denied {
            dataset,
            what: describe(status),
            hint: "the token in HF_TOKEN or its file is not valid; make one under Settings, Access Tokens"
                .to_owned(),
        },
        (_, 403) => HubError::Denied {
            what: describe(status),
            hint: format!("the token must be allowed to read it: see {}", page(client, id)),
            dataset,
        },
        _ => other(status),
    }
}

/// A status in words.
pub(super) fn describe(status: &Status) -> String {
    let mut text = format!("HTTP {}", status.status);
    if !status.code.is_empty() {
        text = text + " " + &status.code;
    }
    if !status.message.is_empty() {
        text = text + ": " + &status.message;
    }
    text
}

fn page(client: &Client, id: &HubId) -> String {
    client.address(&format!("/datasets/{}", id.name()))
}

fn gated_hint(client: &Client, id: &HubId) -> String {
    let page = page(client, id);
    if client.has_token() {
        format!("accept the conditions at {page} with the account that the token belongs to")
    } else {
        format!("accept the conditions at {page}, then set HF_TOKEN to a token of that account")
    }
}

/// Nothing of that name, as far as this user may know; perhaps a model has it.
fn not_found(client: &Client, id: &HubId, status: &Status) -> HubError {
    let model = client.address(&format!("/api/models/{}", id.name()));
    let hint = if client.get(&Get { address: &model, ..Default::default() }).is_ok() {
        "there is a model of that name, and a model is no data".to_owned()
    } else if client.has_token() {
        "check the name; if the dataset is private, the token must be allowed to read it".to_owned()
    } else {
        "check the name; if the dataset is private, set HF_TOKEN".to_owned()
    };
    HubError::NotFound { dataset: id.name().to_owned(), what: describe(status), hint }
}

fn other(status: &Status) -> HubError {
    HubError::Answer {
        address: status.address.clone(),
        what: "an answer",
        expected: "success".to_owned(),
        found: describe(status),
        hint: "try later, and check HF_ENDPOINT",
    }
}
