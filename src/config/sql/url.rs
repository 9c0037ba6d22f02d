//! The address of a server of a database, as it is written: `postgres://` or `mysql://`.

use super::super::http_client::decoded;
use super::super::server::Address;
use crate::nearest::suggestion;

pub(super) const FORM: &str = "\"postgres://user@host:5432/database\", \"mysql://user@host:3306/database\" or \
    \"sqlite:path\"";
const POSTGRES_PARAMETERS: &[&str] = &["application_name", "options", "sslmode"];
const MYSQL_PARAMETERS: &[&str] = &["ssl-mode"];
/// The first one is without TLS.
const POSTGRES_MODES: [&str; 4] = ["disable", "require", "verify-ca", "verify-full"];
const MYSQL_MODES: [&str; 4] = ["disabled", "required", "verify_ca", "verify_identity"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Postgres,
    MySql,
}

/// The parts of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) address: Address,
    pub(super) database: Option<String>,
    pub(super) application: Option<String>,
    pub(super) options: Option<String>,
    pub(super) is_tls: Option<bool>,
}

impl Scheme {
    fn of(word: &str) -> Option<Self> {
        match word {
            "postgres" | "postgresql" => Some(Self::Postgres),
            "mysql" | "mariadb" => Some(Self::MySql),
            _ => None,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
        }
    }

    pub(super) fn port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::MySql => 3306,
        }
    }

    /// The parameter of the address that says whether there is TLS.
    pub(super) fn tls_parameter(self) -> &'static str {
        match self {
            Self::Postgres => "sslmode",
            Self::MySql => "ssl-mode",
        }
    }

    fn modes(self) -> [&'static str; 4] {
        match self {
            Self::Postgres => POSTGRES_MODES,
            Self::MySql => MYSQL_MODES,
        }
    }

    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => POSTGRES_PARAMETERS,
            Self::MySql => MYSQL_PARAMETERS,
        }
    }
}

/// An error is a sentence on the key `url`.
pub(super) fn url(text: &str) -> Result<Url, String> {
    let form = || format!("`url` is not as {FORM}");
    let (scheme, rest) = text.split_once(':').ok_or_else(form)?;
    let Some(scheme) = Scheme::of(scheme) else {
        // A scheme alone is no secret.
        let is_word = scheme.len() <= 12 && scheme.bytes().all(|byte| byte.is_ascii_alphabetic());
        return Err(if is_word && rest.starts_with("//") {
            format!("`url` begins with `{scheme}://`, and not as {FORM}")
        } else {
            form()
        });
    };
    let rest = rest.strip_prefix("//").ok_or_else(form)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (credentials, rest) = match rest.rsplit_once('@') {
        None => (None, rest),
        Some((credentials, rest)) => (Some(credentials), rest),
    };
    let (user, password) = match credentials.map(|both| both.split_once(':')) {
        None => (None, None),
        Some(None) => (credentials, None),
        Some(Some((user, password))) => (Some(user), Some(password)),
    };
    let text = |part: Option<&str>| match part.filter(|part| !part.is_empty()) {
        None => Ok(None),
        Some(part) => decoded(part).map(Some).ok_or_else(form),
    };
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains(',') {
        return Err(
            "`url` has several servers, and takes one; write that of the primary, or of a proxy before it"
                .to_owned(),
        );
    }
    if authority.is_empty() || authority.starts_with('%') {
        return Err("`url` has no host; a Unix socket is not supported, write a host".to_owned());
    }
    let mut url = Url {
        scheme,
        user: text(user)?,
        password: text(password)?,
        address: Address::parse(authority, scheme.port()).ok_or_else(form)?,
        database: text(Some(database))?,
        application: None,
        options: None,
        is_tls: None,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(form)?;
        parameter(&mut url, key, decoded(value).ok_or_else(form)?)?;
    }
    Ok(url)
}

fn parameter(url: &mut Url, key: &str, value: String) -> Result<(), String> {
    let scheme = url.scheme;
    let is_postgres = scheme == Scheme::Postgres;
    match key {
        "application_name" if is_postgres => url.application = Some(value),
        "options" if is_postgres => url.options = Some(value),
        key if key == scheme.tls_parameter() => {
            let modes = scheme.modes();
            let value = if is_postgres {
                value
            } else {
                value.to_ascii_lowercase()
            };
            let Some(at) = modes.iter().position(|mode| *mode == value) else {
                let modes = modes.join(", ");
                return Err(format!(
                    "`url` has another `{key}` than {modes}; with TLS, certificates are always checked"
                ));
            };
            url.is_tls = Some(at > 0);
        }
        "connect_timeout" => {
            return Err("`url` has `connect_timeout`; write the key `connectTimeout`".to_owned());
        }
        "sslrootcert" | "sslcert" | "sslkey" | "ssl-ca" | "ssl-cert" | "ssl-key" => {
            return Err(format!("`url` has `{key}`; write it below `tls`"));
        }
        _ => {
            let meant = suggestion(key, scheme.parameters());
            return Err(format!("`url` has a parameter that is not known, {meant}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_parts() {
        let found = url(
            "postgresql://al%40ice:p%3A%2Fw@Db.example:5433/my%20db?sslmode=verify-full&application_name=a&options=-c%20x=1",
        );
        let expected = Url {
            scheme: Scheme::Postgres,
            user: Some("al@ice".to_owned()),
            password: Some("p:/w".to_owned()),
            address: Address {
                host: "db.example".to_owned(),
                port: 5433,
            },
            database: Some("my db".to_owned()),
            application: Some("a".to_owned()),
            options: Some("-c x=1".to_owned()),
            is_tls: Some(true),
        };
        assert_eq!(found, Ok(expected));
        let short = url("postgres://h").unwrap();
        assert_eq!(short.address.to_string(), "h:5432");
        assert_eq!(
            (short.user, short.database, short.is_tls),
            (None, None, None)
        );
        assert_eq!(
            url("postgres://[::1]/d").unwrap().address.to_string(),
            "[::1]:5432"
        );
    }

    #[test]
    fn anything_else_is_told_without_a_secret() {
        for (text, expected) in [
            ("db.example:5432", "is not as"),
            (
                "mysql://u:secret@h/d?ssl-mode=PREFERRED",
                "another `ssl-mode`",
            ),
            (
                "mysql://u:secret@h/d?sslmode=disable",
                "did you mean `ssl-mode`?",
            ),
            ("mysql://u:secret@h/d?ssl-ca=x", "below `tls`"),
            ("mongodb://u:secret@h/d", "begins with `mongodb://`"),
            ("secret", "is not as"),
            ("postgres:secret", "is not as"),
            ("postgres://u:secret@h:port/d", "is not as"),
            ("postgres://u:secret@a,b/d", "several servers"),
            ("postgres:///d?host=/run", "no host"),
            ("postgres://h/d?sslmode=prefer", "another `sslmode`"),
            ("postgres://h/d?password=secret", "not known"),
            ("postgres://h/d?sslrootcert=x", "below `tls`"),
            ("postgres://h/d?connect_timeout=1", "`connectTimeout`"),
        ] {
            let error = url(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn mysql_has_its_port_and_its_modes() {
        let short = url("mysql://u:p@h").unwrap();
        assert_eq!((short.scheme, short.database), (Scheme::MySql, None));
        assert_eq!(short.address.to_string(), "h:3306");
        let long = url("mariadb://u@h:3307/d?ssl-mode=VERIFY_IDENTITY").unwrap();
        assert_eq!(long.scheme, Scheme::MySql);
        assert_eq!(
            (long.database.as_deref(), long.is_tls),
            (Some("d"), Some(true))
        );
        let off = url("mysql://h/d?ssl-mode=disabled").unwrap();
        assert_eq!(off.is_tls, Some(false));
    }
}
