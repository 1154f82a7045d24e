//! A certificate for this machine.

use std::{fs, path::Path};

/// A certificate for `localhost` and `127.0.0.1` that signs itself, with its key.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    certificate: String,
    key: String,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// The lines of `redis.conf` for a server in `folder` that listens on `port` with it, and trusts clients that have it.
    pub(crate) fn config(&self, folder: &Path, port: u16) -> String {
        fs::write(folder.join("tls.crt"), &self.certificate).expect("the certificate is written");
        fs::write(folder.join("tls.key"), &self.key).expect("the key is written");
        let path = folder.display();
        format!(
            "tls-port {port}\ntls-cert-file \"{path}/tls.crt\"\ntls-key-file \"{path}/tls.key\"\n\
             tls-ca-cert-file \"{path}/tls.crt\"\ntls-auth-clients no\n"
        )
    }
}
