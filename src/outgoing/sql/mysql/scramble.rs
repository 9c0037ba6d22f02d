//! The proofs of a password at the log-in. Pure, but for the padding of RSA.

use openssl::error::ErrorStack;
use openssl::rsa::{Padding, Rsa};
use openssl::sha::{sha1, sha256};

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// `mysql_native_password`
    Native,
    /// `caching_sha2_password`
    Sha2,
    /// `mysql_clear_password`: only over TLS.
    Clear,
}

impl Method {
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"mysql_native_password" => Some(Self::Native),
            b"caching_sha2_password" => Some(Self::Sha2),
            b"mysql_clear_password" => Some(Self::Clear),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::Sha2 => "caching_sha2_password",
            Self::Clear => "mysql_clear_password",
        }
    }

    /// The first answer to the server, which has sent `nonce`.
    pub(super) fn answer(self, password: &str, nonce: &[u8]) -> Vec<u8> {
        let password = password.as_bytes();
        match self {
            Self::Clear => clear(password),
            _ if password.is_empty() => Vec::new(),
            Self::Native => {
                let once = sha1(password);
                let mask = sha1(&[nonce, &sha1(&once)].concat());
                mixed(&once, &mask)
            }
            Self::Sha2 => {
                let once = sha256(password);
                let mask = sha256(&[&sha256(&once), nonce].concat());
                mixed(&once, &mask)
            }
        }
    }
}

/// The password itself.
pub(super) fn clear(password: &[u8]) -> Vec<u8> {
    [password, b"\0"].concat()
}

/// The password for the server alone, by the public key that it has sent.
pub(super) fn encrypted(password: &str, nonce: &[u8], key: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let mask: Vec<u8> = nonce
        .iter()
        .copied()
        .cycle()
        .take(password.len() + 1)
        .collect();
    let key = Rsa::public_key_from_pem(key)?;
    let mut encrypted = vec![0; key.size() as usize];
    let mixed = mixed(&clear(password.as_bytes()), &mask);
    let length = key.public_encrypt(&mixed, &mut encrypted, Padding::PKCS1_OAEP)?;
    encrypted.truncate(length);
    Ok(encrypted)
}

fn mixed(bytes: &[u8], mask: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .zip(mask)
        .map(|(one, other)| one ^ other)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server computes: it knows the hash of the hash, and finds the hash in the answer.
    #[test]
    fn the_server_finds_the_hash_of_the_password_in_the_answer() {
        let nonce = b"01234567890123456789";
        let answer = Method::Native.answer("secret", nonce);
        let stored = sha1(&sha1(b"secret"));
        let found = mixed(&answer, &sha1(&[&nonce[..], &stored].concat()));
        assert_eq!(sha1(&found), stored);
        let answer = Method::Sha2.answer("secret", nonce);
        let stored = sha256(&sha256(b"secret"));
        let found = mixed(&answer, &sha256(&[&stored[..], &nonce[..]].concat()));
        assert_eq!(sha256(&found), stored);
        assert_eq!(Method::Native.answer("", nonce), b"");
        assert_eq!(Method::Clear.answer("a", nonce), b"a\0");
    }

    #[test]
    fn the_owner_of_the_key_reads_the_password() {
        let own = Rsa::generate(2048).unwrap();
        let nonce = b"0123456789012345678\x01";
        let password = "a longer secret than the nonce is";
        let sent = encrypted(password, nonce, &own.public_key_to_pem().unwrap()).unwrap();
        let mut found = vec![0; own.size() as usize];
        let length = own
            .private_decrypt(&sent, &mut found, Padding::PKCS1_OAEP)
            .unwrap();
        let mask: Vec<u8> = nonce.iter().copied().cycle().take(length).collect();
        assert_eq!(mixed(&found[..length], &mask), clear(password.as_bytes()));
        assert!(encrypted(password, nonce, b"no key").is_err());
    }
}
