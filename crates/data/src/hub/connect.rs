//! How connections are made: time limits, the proxy, and whose certificates are trusted.

use super::error::HubError;
use super::options::HubOptions;
use std::io::Read;
use std::path::Path;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy, ProxyProtocol};

/// Most bytes of the head of an answer.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Most bytes of a file of certificates.
const MAX_CA_BYTES: u64 = 16 << 20;

/// A pool of connections.
pub(super) fn agent(options: &HubOptions) -> Result<Agent, HubError> {
    let patience = &options.patience;
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        // By default the library looks the proxy up in the environment.
        .proxy(proxy(options)?)
        .tls_config(TlsConfig::builder().root_certs(root_certificates(options)?).build())
        .user_agent(&options.user_agent)
        // A file that is compressed on its way has neither its own size nor its own ranges.
        .accept_encoding("identity")
        .max_response_header_size(MAX_HEAD_BYTES)
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_send_request(Some(patience.silence))
        .timeout_recv_response(Some(patience.silence))
        .timeout_per_read(Some(patience.silence))
        .build();
    Ok(config.into())
}

fn proxy(options: &HubOptions) -> Result<Option<Proxy>, HubError> {
    let Some(text) = &options.proxy else { return Ok(None) };
    let wrong = |what: &str| HubError::Option { name: "HTTPS_PROXY", what: what.to_owned() };
    let given = Proxy::new(text.reveal()).map_err(|_| wrong("expected http://[USER:PASSWORD@]HOST:PORT"))?;
    if !matches!(given.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
        return Err(wrong("a SOCKS proxy; expected one of HTTP"));
    }
    let mut proxy = Proxy::builder(given.protocol()).host(given.host()).port(given.port());
    if let Some(name) = given.username() {
        proxy = proxy.username(name);
    }
    if let Some(password) = given.password() {
        proxy = proxy.password(password);
    }
    for host in options.no_proxy.iter().flat_map(|hosts| hosts.split(',')) {
        proxy = proxy.no_proxy(host.trim());
    }
    proxy.build().map(Some).map_err(|_| wrong("expected http://[USER:PASSWORD@]HOST:PORT"))
}

fn root_certificates(options: &HubOptions) -> Result<RootCerts, HubError> {
    let Some(path) = &options.ca_file else { return Ok(RootCerts::WebPki) };
    let pem = read_certificates(path).map_err(HubError::cache("read the certificates in", path))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        let what = format!("{} has no certificate in PEM", path.display());
        return Err(HubError::Option { name: "SSL_CERT_FILE", what });
    }
    Ok(RootCerts::from(certificates))
}

fn read_certificates(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    std::fs::File::open(path)?.take(MAX_CA_BYTES).read_to_end(&mut pem)?;
    Ok(pem)
}
