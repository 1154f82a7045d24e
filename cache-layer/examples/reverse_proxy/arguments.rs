//! The command line of a proxy.

use std::{net::SocketAddr, time::Duration};

use hyper::{
    Uri,
    http::uri::{Authority, Scheme},
};

pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an IP address and a port, such as 127.0.0.1:8080".to_owned())
}

pub(crate) fn origin(text: &str) -> Result<Authority, String> {
    let parts = text.parse::<Uri>().map(Uri::into_parts).ok();
    parts
        .filter(|parts| parts.scheme == Some(Scheme::HTTP))
        .filter(|parts| parts.path_and_query.as_ref().is_none_or(|path| path == "/"))
        .and_then(|parts| parts.authority)
        .filter(|authority| !authority.as_str().contains('@'))
        .ok_or_else(|| "must be http://HOST or http://HOST:PORT, without a path".to_owned())
}

pub(crate) fn milliseconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_millis).map_err(|_| "must be a whole number of milliseconds".to_owned())
}

pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit: Option<u64> = match unit {
        "" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "must be a size such as 512KiB, 64MiB, 1GiB, or plain bytes".to_owned())
}
