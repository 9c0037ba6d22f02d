//! The log-in by SCRAM-SHA-256 (RFC 7677), without channel binding. Pure, but for the nonce.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkcs5::pbkdf2_hmac;
use openssl::pkey::PKey;
use openssl::sha::sha256;
use openssl::sign::Signer;

pub(super) const MECHANISM: &str = "SCRAM-SHA-256";
/// A server that asks for more rounds wants to hold the client up.
const ROUNDS_MAX: usize = 1_000_000;
/// The header of a client without channel binding, and its base64.
const HEADER: &str = "n,,";
const HEADER_BASE64: &str = "biws";

/// Behind the first message.
pub(super) struct Scram {
    password: String,
    nonce: String,
}

/// Behind the second.
pub(super) struct Expecting {
    /// The signature of a server that knows the password.
    signature: String,
}

impl Scram {
    pub(super) fn new(password: &str) -> Result<Self, String> {
        let mut nonce = [0; 18];
        openssl::rand::rand_bytes(&mut nonce).map_err(|error| error.to_string())?;
        Ok(Self {
            password: password.to_owned(),
            nonce: STANDARD.encode(nonce),
        })
    }

    /// The server takes the user of the start.
    pub(super) fn first(&self) -> String {
        format!("{HEADER}n=,r={}", self.nonce)
    }

    /// The second message, for the server's first one.
    pub(super) fn last(&self, server: &str) -> Result<(String, Expecting), String> {
        let part = |at: usize, name: &str| {
            let part = server
                .split(',')
                .nth(at)
                .and_then(|part| part.strip_prefix(name));
            part.ok_or_else(|| "the server's part of SCRAM is not as it has to be".to_owned())
        };
        let (nonce, salt, rounds) = (part(0, "r=")?, part(1, "s=")?, part(2, "i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the server has another nonce".to_owned());
        }
        let salt = STANDARD
            .decode(salt)
            .map_err(|_| "the server's salt is no base64")?;
        let rounds = rounds
            .parse()
            .ok()
            .filter(|rounds| (1..=ROUNDS_MAX).contains(rounds));
        let rounds = rounds.ok_or("the server asks for a number of rounds that is not possible")?;
        let (start, nonce_own) = (format!("c={HEADER_BASE64},r={nonce}"), &self.nonce);
        let signed = format!("n=,r={nonce_own},{server},{start}");
        let (proof, signature) =
            keys(&self.password, &salt, rounds, &signed).map_err(|error| error.to_string())?;
        Ok((format!("{start},p={proof}"), Expecting { signature }))
    }
}

impl Expecting {
    pub(super) fn check(&self, server: &str) -> Result<(), String> {
        match server.strip_prefix("v=") {
            Some(signature)
                if openssl::memcmp::eq(&digest(signature), &digest(&self.signature)) =>
            {
                Ok(())
            }
            _ => Err("the server does not know the password: it may be another one".to_owned()),
        }
    }
}

fn digest(text: &str) -> [u8; 32] {
    sha256(text.as_bytes())
}

fn hmac(key: &[u8], text: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let key = PKey::hmac(key)?;
    Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(text)
}

/// The proof of the client, and the signature of the server.
fn keys(
    password: &str,
    salt: &[u8],
    rounds: usize,
    signed: &str,
) -> Result<(String, String), ErrorStack> {
    let mut salted = [0; 32];
    pbkdf2_hmac(
        password.as_bytes(),
        salt,
        rounds,
        MessageDigest::sha256(),
        &mut salted,
    )?;
    let client = hmac(&salted, b"Client Key")?;
    let signature = hmac(&sha256(&client), signed.as_bytes())?;
    let proof: Vec<u8> = client
        .iter()
        .zip(signature)
        .map(|(one, other)| one ^ other)
        .collect();
    let server = hmac(&hmac(&salted, b"Server Key")?, signed.as_bytes())?;
    Ok((STANDARD.encode(proof), STANDARD.encode(server)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, whose user is not empty.
    #[test]
    fn the_keys_are_those_of_the_standard() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signed = format!(
            "n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
        );
        let (proof, server) = keys("pencil", &salt, 4096, &signed).unwrap();
        assert_eq!(proof, "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(server, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn another_server_is_refused() {
        let scram = Scram::new("pw").unwrap();
        let nonce = &scram.nonce;
        for server in [
            "r=other,s=AAAA,i=4096".to_owned(),
            format!("r={nonce},s=AAAA,i=4096"),
            format!("r={nonce}x,s=?,i=4096"),
            format!("r={nonce}x,s=AAAA,i=0"),
            format!("r={nonce}x,s=AAAA,i=1000000000"),
            format!("r={nonce}x"),
            String::new(),
        ] {
            assert!(scram.last(&server).is_err(), "{server}");
        }
        let (_, expecting) = scram.last(&format!("r={nonce}x,s=AAAA,i=10")).unwrap();
        assert!(expecting.check("v=AAAA").is_err());
        assert!(expecting.check("e=other-error").is_err());
        assert!(
            expecting
                .check(&format!("v={}", expecting.signature))
                .is_ok()
        );
    }
}
