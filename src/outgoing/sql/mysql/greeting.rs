//! The first packets of a connection: the greeting of the server, and the answer to it. Pure.

use super::scramble::Method;
use super::wire::{Parts, put_bytes, put_string};
use crate::config::MySql as Settings;

/// Of MySQL; MariaDB leaves it out, and has extended capabilities instead.
const IS_MYSQL: u32 = 1;
const LONG_FLAG: u32 = 1 << 2;
const WITH_DATABASE: u32 = 1 << 3;
const PROTOCOL_41: u32 = 1 << 9;
const TLS: u32 = 1 << 11;
const TRANSACTIONS: u32 = 1 << 13;
const SECURE_CONNECTION: u32 = 1 << 15;
const MULTI_RESULTS: u32 = 1 << 17;
const PREPARED_MULTI_RESULTS: u32 = 1 << 18;
const METHODS: u32 = 1 << 19;
const ATTRIBUTES: u32 = 1 << 20;
/// What Moontide takes, of what the server has. Files of this machine, and several statements in one text, are not there.
const TAKEN: u32 = IS_MYSQL
    | LONG_FLAG
    | PROTOCOL_41
    | TRANSACTIONS
    | SECURE_CONNECTION
    | MULTI_RESULTS
    | PREPARED_MULTI_RESULTS
    | METHODS
    | ATTRIBUTES;
/// Of MariaDB: columns have its own types.
const EXTENDED_TYPES: u32 = 1 << 3;
/// `utf8mb4_general_ci`, which every server has.
const UTF8MB4: u8 = 45;
/// The bytes of a nonce.
const NONCE: usize = 20;

#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) thread: u32,
    pub(super) nonce: Vec<u8>,
    capabilities: u32,
    /// Of MariaDB.
    extended: u32,
    method: Option<Method>,
}

impl Greeting {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut parts = Parts(body);
        if parts.u8()? != 10 {
            return None;
        }
        let _version = parts.string()?;
        let thread = parts.u32()?;
        let mut nonce = parts.bytes(8)?.to_vec();
        parts.u8()?;
        let low = u32::from(parts.u16()?);
        let (_charset, _status) = (parts.u8()?, parts.u16()?);
        let capabilities = low | u32::from(parts.u16()?) << 16;
        let length = usize::from(parts.u8()?);
        parts.bytes(6)?;
        let extended = parts.u32()?;
        nonce.extend_from_slice(parts.bytes(length.saturating_sub(8).max(13))?);
        nonce.truncate(NONCE);
        let method = parts.string().unwrap_or(parts.0);
        (capabilities & PROTOCOL_41 != 0).then(|| Self {
            thread,
            nonce,
            capabilities,
            extended: if capabilities & IS_MYSQL == 0 {
                extended
            } else {
                0
            },
            method: Method::of(method),
        })
    }

    pub(super) fn has_tls(&self) -> bool {
        self.capabilities & TLS != 0
    }

    /// Whether the columns have the types of MariaDB.
    pub(super) fn is_extended(&self) -> bool {
        self.extended & EXTENDED_TYPES != 0
    }

    /// That of the server, unless it would send the password itself: the server then asks for another one.
    pub(super) fn method(&self) -> Method {
        match self.method {
            Some(Method::Sha2) => Method::Sha2,
            _ => Method::Native,
        }
    }
}

pub(super) fn capabilities(settings: &Settings, greeting: &Greeting) -> u32 {
    let mut own = greeting.capabilities & TAKEN;
    if settings.tls.is_some() {
        own |= TLS;
    }
    if settings.database.is_some() {
        own |= WITH_DATABASE;
    }
    own
}

/// The beginning of the answer, which alone is the request for TLS.
pub(super) fn head(own: u32, greeting: &Greeting) -> Vec<u8> {
    let mut body = own.to_le_bytes().to_vec();
    // The longest packet that it takes; a result has its own bounds.
    body.extend_from_slice(&(1u32 << 30).to_le_bytes());
    body.push(UTF8MB4);
    body.extend_from_slice(&[0; 19]);
    let extended = greeting.extended & EXTENDED_TYPES;
    body.extend_from_slice(&extended.to_le_bytes());
    body
}

pub(super) fn response(settings: &Settings, own: u32, greeting: &Greeting) -> Vec<u8> {
    let mut body = head(own, greeting);
    put_string(&mut body, settings.user.as_bytes());
    let password = settings.password.as_ref().map_or("", |one| one.0.as_str());
    let method = greeting.method();
    let answer = method.answer(password, &greeting.nonce);
    put_bytes(&mut body, &answer);
    if let Some(database) = &settings.database {
        put_string(&mut body, database.as_bytes());
    }
    if own & METHODS != 0 {
        put_string(&mut body, method.name().as_bytes());
    }
    if own & ATTRIBUTES != 0 {
        let mut attributes = Vec::new();
        put_bytes(&mut attributes, b"program_name");
        put_bytes(&mut attributes, settings.application.as_bytes());
        put_bytes(&mut body, &attributes);
    }
    body
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Address, Secret};

    pub(in super::super) const NO_TLS: u32 = !TLS;

    pub(in super::super) fn packet(capabilities: u32, method: &[u8]) -> Vec<u8> {
        let mut body = vec![10];
        put_string(&mut body, b"5.5.5-10.11");
        body.extend_from_slice(&7u32.to_le_bytes());
        body.extend_from_slice(b"01234567\0");
        let [low, high] = [capabilities as u16, (capabilities >> 16) as u16];
        body.extend_from_slice(&low.to_le_bytes());
        body.extend_from_slice(&[45, 2, 0]);
        body.extend_from_slice(&high.to_le_bytes());
        body.push(21);
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&0x1Du32.to_le_bytes());
        body.extend_from_slice(b"890123456789\0");
        put_string(&mut body, method);
        body
    }

    pub(in super::super) fn settings() -> Settings {
        Settings {
            address: Address {
                host: "h".to_owned(),
                port: 1,
            },
            user: "joe".to_owned(),
            password: Some(Secret("secret".to_owned())),
            database: Some("shop".to_owned()),
            tls: None,
            application: "moontide:main".to_owned(),
        }
    }

    #[test]
    fn a_greeting_is_answered_with_what_both_have() {
        let all = !IS_MYSQL;
        let greeting = Greeting::read(&packet(all, b"mysql_native_password")).unwrap();
        assert_eq!(greeting.nonce, b"01234567890123456789");
        assert_eq!(greeting.thread, 7);
        assert!(greeting.has_tls() && greeting.is_extended());
        let own = capabilities(&settings(), &greeting);
        assert_eq!(own & (TLS | IS_MYSQL), 0);
        // No file of this machine, no several statements, no compression.
        assert_eq!(own & (1 << 7 | 1 << 16 | 1 << 5), 0);
        let body = response(&settings(), own, &greeting);
        assert_eq!(body[28..32], EXTENDED_TYPES.to_le_bytes());
        let mut parts = Parts(&body[32..]);
        assert_eq!(parts.string(), Some(&b"joe"[..]));
        assert_eq!(parts.counted().unwrap().len(), 20);
        assert_eq!(parts.string(), Some(&b"shop"[..]));
        assert_eq!(parts.string(), Some(&b"mysql_native_password"[..]));
        let shown = String::from_utf8_lossy(&body);
        assert!(shown.contains("moontide:main") && !shown.contains("secret"));
    }

    #[test]
    fn what_is_no_greeting_is_none() {
        let whole = packet(PROTOCOL_41 | IS_MYSQL, b"caching_sha2_password");
        let greeting = Greeting::read(&whole).unwrap();
        assert_eq!(greeting.method(), Method::Sha2);
        assert!(!greeting.is_extended() && !greeting.has_tls());
        assert!(Greeting::read(&packet(0, b"")).is_none());
        for length in 0..whole.len() - 25 {
            assert!(Greeting::read(&whole[..length]).is_none(), "{length}");
        }
        assert!(Greeting::read(b"SSH-2.0-OpenSSH_9.2p1").is_none());
    }
}
