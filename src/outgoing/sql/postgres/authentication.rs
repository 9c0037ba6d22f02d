//! How a client proves who it is, and the server that it knows the password: SCRAM-SHA-256, MD5, the password itself, or
//! the certificate of the connection.
//!
//! Over TLS the proof of SCRAM has the certificate of the server in it, where the server is able to do that (RFC 5929).
//! One who stands between the two, even with a certificate that is trusted, has another one.

use std::io;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite};

use super::faults;
use super::wire::{Broken, MESSAGE_MAX, Wire, unexpected};
use crate::config::Postgres as Settings;
use crate::outgoing::sockets::dialing::unreachable;
use crate::wait::Fault;

pub(super) fn broken(broken: Broken) -> Fault {
    unreachable(match broken {
        Broken::Closed(reason) => format!("the connection ended: {reason}"),
        Broken::TooLarge => "a message is too large".to_owned(),
        Broken::Malformed(error) => format!("the server does not speak as PostgreSQL: {error}"),
        Broken::Unexpected(what) => format!("the server does not speak as PostgreSQL: {what}"),
        Broken::Unwritable(error) => format!("it cannot be sent: {error}"),
    })
}

/// A server that lets nobody in is away.
fn refused(body: &ErrorResponseBody) -> Fault {
    let fault = faults::read(body).fault();
    let kind = if fault.kind == "busy" {
        "busy"
    } else {
        "unreachable"
    };
    Fault { kind, ..fault }
}

/// The next message that says something of the log-in.
pub(super) async fn next<S>(wire: &mut Wire<S>) -> Result<(u8, Message), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match wire.receive(MESSAGE_MAX).await.map_err(broken)? {
            (_, Message::ErrorResponse(body)) => return Err(refused(&body)),
            (_, Message::NoticeResponse(_)) => {}
            other => return Ok(other),
        }
    }
}

async fn answer<S>(
    wire: &mut Wire<S>,
    write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    wire.output.try_push(write).map_err(broken)?;
    wire.send().await.map_err(broken)
}

/// Ends when the server has let the client in. It asks for one proof at most.
pub(super) async fn authenticate<S>(
    settings: &Settings,
    wire: &mut Wire<S>,
    end_point: Option<Vec<u8>>,
) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let password = || match &settings.password {
        Some(password) => Ok(password.0.as_bytes()),
        None => Err(unreachable(
            "the server asks for a password; write `password` in the table".to_owned(),
        )),
    };
    let (letter, message) = next(wire).await?;
    match message {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationCleartextPassword => {
            let password = password()?;
            answer(wire, |buffer| frontend::password_message(password, buffer)).await?;
        }
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(settings.user.as_bytes(), password()?, body.salt());
            let hash = hash.as_bytes();
            answer(wire, |buffer| frontend::password_message(hash, buffer)).await?;
        }
        Message::AuthenticationSasl(body) => scram(&body, password()?, wire, end_point).await?,
        Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential
        | Message::AuthenticationGss
        | Message::AuthenticationSspi => {
            return Err(unreachable(
                "the server asks for GSSAPI, SSPI, Kerberos or the user of the system; possible are SCRAM-SHA-256, \
                 MD5, a password and a certificate: pg_hba.conf of the server has the method"
                    .to_owned(),
            ));
        }
        _ => return Err(broken(unexpected("the log-in", letter))),
    }
    match next(wire).await? {
        (_, Message::AuthenticationOk) => Ok(()),
        (letter, _) => Err(broken(unexpected("the end of the log-in", letter))),
    }
}

/// The exchange of SCRAM. **A server that does not prove that it knows the password is refused.**
async fn scram<S>(
    offered: &AuthenticationSaslBody,
    password: &[u8],
    wire: &mut Wire<S>,
    end_point: Option<Vec<u8>>,
) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mechanism, binding) = mechanism(offered, end_point)?;
    let mut scram = ScramSha256::new(password, binding);
    let first =
        |buffer: &mut BytesMut| frontend::sasl_initial_response(mechanism, scram.message(), buffer);
    answer(wire, first).await?;
    let (letter, message) = next(wire).await?;
    let Message::AuthenticationSaslContinue(body) = message else {
        return Err(broken(unexpected("the server's part of SCRAM", letter)));
    };
    let updated = scram.update(body.data());
    updated.map_err(|error| {
        unreachable(format!("the server's part of SCRAM is not valid: {error}"))
    })?;
    answer(wire, |buffer| {
        frontend::sasl_response(scram.message(), buffer)
    })
    .await?;
    let (letter, message) = next(wire).await?;
    let Message::AuthenticationSaslFinal(body) = message else {
        return Err(broken(unexpected("the server's proof of SCRAM", letter)));
    };
    let finished = scram.finish(body.data());
    finished.map_err(|error| {
        unreachable(format!(
            "the server does not prove that it knows the password, so it may be another one: {error}"
        ))
    })
}

/// The strongest mechanism that both sides have.
fn mechanism(
    offered: &AuthenticationSaslBody,
    end_point: Option<Vec<u8>>,
) -> Result<(&'static str, ChannelBinding), Fault> {
    let (mut has_bound, mut has_plain) = (false, false);
    let mut mechanisms = offered.mechanisms();
    while let Some(one) = mechanisms
        .next()
        .map_err(|error| broken(Broken::Malformed(error)))?
    {
        has_bound |= one == SCRAM_SHA_256_PLUS;
        has_plain |= one == SCRAM_SHA_256;
    }
    match end_point {
        Some(hash) if has_bound => Ok((
            SCRAM_SHA_256_PLUS,
            ChannelBinding::tls_server_end_point(hash),
        )),
        // It says that the client would be able to: a server that has offered it, too, then knows that somebody between
        // has left that out.
        Some(_) if has_plain => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        None if has_plain => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        _ => Err(unreachable(
            "the server has another SASL mechanism than SCRAM-SHA-256".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::config::{Location, Secret, Sql};

    fn message(method: u32, data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u32 + 8).to_be_bytes();
        [&b"R"[..], &length, &method.to_be_bytes(), data].concat()
    }

    fn offering(mechanisms: &str) -> AuthenticationSaslBody {
        let bytes = message(10, mechanisms.as_bytes());
        match Message::parse(&mut BytesMut::from(&bytes[..])) {
            Ok(Some(Message::AuthenticationSasl(body))) => body,
            _ => panic!("it is an offer"),
        }
    }

    #[test]
    fn the_certificate_is_in_the_proof_where_both_sides_are_able_to() {
        let (both, plain) = ("SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", "SCRAM-SHA-256\0\0");
        for (offered, hash, expected) in [
            (
                both,
                true,
                "SCRAM-SHA-256-PLUS p=tls-server-end-point,,n=,r=",
            ),
            (plain, true, "SCRAM-SHA-256 y,,n=,r="),
            (both, false, "SCRAM-SHA-256 n,,n=,r="),
            (plain, false, "SCRAM-SHA-256 n,,n=,r="),
        ] {
            let hash = hash.then(|| vec![7; 32]);
            let (name, binding) = mechanism(&offering(offered), hash).unwrap();
            let scram = ScramSha256::new(b"", binding);
            let first = String::from_utf8(scram.message().to_vec()).unwrap();
            assert!(format!("{name} {first}").starts_with(expected), "{first}");
        }
        for offered in [
            "SCRAM-SHA-512\0\0",
            "\0",
            "SCRAM-SHA-256-PLUS\0\0",
            "no end",
        ] {
            let fault = mechanism(&offering(offered), None).err().unwrap();
            assert_eq!(fault.kind, "unreachable");
        }
    }

    /// What the client says of a server that sends this, one message after the other.
    fn told(messages: &[Vec<u8>]) -> String {
        let Location::Postgres(mut settings) = Sql::named("main").location else {
            panic!("it is PostgreSQL");
        };
        settings.password = Some(Secret("secret".to_owned()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut server, near) = tokio::io::duplex(4096);
            let mut wire = Wire::new(near);
            server.write_all(&messages.concat()).await.unwrap();
            let fault = authenticate(&settings, &mut wire, None).await.unwrap_err();
            drop(wire);
            let mut sent = Vec::new();
            server.read_to_end(&mut sent).await.unwrap();
            let is_secret = |text: &[u8]| text.windows(6).any(|part| part == b"secret");
            assert!(!is_secret(&sent) && !is_secret(fault.message.as_bytes()));
            assert_eq!(fault.kind, "unreachable");
            fault.message
        })
    }

    #[test]
    fn a_server_that_leaves_its_proof_out_is_refused() {
        let (offer, ok) = (message(10, b"SCRAM-SHA-256\0\0"), message(0, b""));
        for (messages, expected) in [
            (
                vec![offer.clone(), ok.clone()],
                "the server's part of SCRAM",
            ),
            (
                vec![offer.clone(), message(11, b"r=another,s=AAAA,i=4096"), ok],
                "invalid nonce",
            ),
            (
                vec![offer.clone(), message(3, b"")],
                "the server's part of SCRAM",
            ),
            (
                vec![offer, message(12, b"v=AAAA")],
                "the server's part of SCRAM",
            ),
            (vec![message(7, b"")], "the server asks for GSSAPI"),
            (vec![message(99, b"")], "unknown authentication tag"),
        ] {
            let told = told(&messages);
            assert!(told.contains(expected), "{told}");
        }
    }
}
