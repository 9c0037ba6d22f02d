//! TLS by the OpenSSL that librdkafka has, too. Certificates are always checked.

use std::path::PathBuf;
use std::pin::Pin;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509VerifyResult};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::config::{Certificate, Secret};

pub(in crate::outgoing) type Stream = SslStream<TcpStream>;

/// Why there is no TLS.
pub(in crate::outgoing) enum Failed {
    /// The certificate of the server is not valid.
    Untrusted(String),
    Other(String),
}

/// Trusts these CA certificates, or those of the system, and has this client certificate.
pub(in crate::outgoing) fn connector(
    ca: Option<&Secret>,
    certificate: Option<&Certificate>,
) -> Result<SslConnector, ErrorStack> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    if let Some(ca) = ca {
        let mut store = X509StoreBuilder::new()?;
        for one in X509::stack_from_pem(ca.0.as_bytes())? {
            store.add_cert(one)?;
        }
        builder.set_cert_store(store.build());
    } else {
        // The paths that OpenSSL knows are those of the machine that built it.
        let system = openssl_probe::probe();
        let folder = system.cert_dir.first().map(PathBuf::as_path);
        if system.cert_file.is_some() || folder.is_some() {
            builder.load_verify_locations(system.cert_file.as_deref(), folder)?;
        }
    }
    if let Some(one) = certificate {
        let mut chain = X509::stack_from_pem(one.cert.0.as_bytes())?.into_iter();
        if let Some(own) = chain.next() {
            builder.set_certificate(&own)?;
        }
        for issuer in chain {
            builder.add_extra_chain_cert(issuer)?;
        }
        let passphrase = one.passphrase.as_ref().map_or("", |one| &one.0);
        let key =
            PKey::private_key_from_pem_passphrase(one.key.0.as_bytes(), passphrase.as_bytes())?;
        builder.set_private_key(&key)?;
    }
    Ok(builder.build())
}

/// The handshake with `host`.
pub(in crate::outgoing) async fn connect(
    connector: &SslConnector,
    host: &str,
    stream: TcpStream,
) -> Result<Stream, Failed> {
    let other = |error: ErrorStack| Failed::Other(error.to_string());
    let ssl = connector.configure().and_then(|one| one.into_ssl(host));
    let mut stream = SslStream::new(ssl.map_err(other)?, stream).map_err(other)?;
    let Err(error) = Pin::new(&mut stream).connect().await else {
        return Ok(stream);
    };
    let verified = stream.ssl().verify_result();
    if verified == X509VerifyResult::OK {
        Err(Failed::Other(error.to_string()))
    } else {
        Err(Failed::Untrusted(verified.error_string().to_owned()))
    }
}

/// `tls-server-end-point` of RFC 5929: the certificate of the server by the hash of its signature, or by SHA-256 where
/// that one is too weak. `None` for a signature without a hash of its own, such as Ed25519.
pub(super) fn server_end_point(stream: &Stream) -> Option<Vec<u8>> {
    let certificate = stream.ssl().peer_certificate()?;
    let signature = certificate.signature_algorithm().object().nid();
    let digest = match signature.signature_algorithms()?.digest {
        Nid::MD5 | Nid::SHA1 => MessageDigest::sha256(),
        digest => MessageDigest::from_nid(digest)?,
    };
    let hash = certificate.digest(digest).ok()?;
    Some(hash.to_vec())
}
