//! The user of the peer on the control socket, as the kernel reports it.

use std::fmt;

use tokio::net::UnixStream;

const USERS: &str = "/etc/passwd";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) uid: Option<u32>,
    pub(crate) pid: Option<i32>,
    /// A name from this machine's own list; users of other sources have only a number.
    pub(crate) user: Option<String>,
}

impl Who {
    pub(super) fn of(stream: &UnixStream) -> Self {
        let Ok(credentials) = stream.peer_cred() else {
            return Self::default();
        };
        let users = std::fs::read_to_string(USERS).unwrap_or_default();
        Self {
            uid: Some(credentials.uid()),
            pid: credentials.pid(),
            user: name(&users, credentials.uid()).map(str::to_owned),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(uid) = self.uid else {
            return f.write_str("somebody unknown");
        };
        match &self.user {
            Some(user) => write!(f, "{user} (uid {uid}")?,
            None => write!(f, "uid {uid}")?,
        }
        match (self.pid, &self.user) {
            (Some(pid), Some(_)) => write!(f, ", pid {pid})"),
            (Some(pid), None) => write!(f, " (pid {pid})"),
            (None, Some(_)) => f.write_str(")"),
            (None, None) => Ok(()),
        }
    }
}

fn name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_name_where_the_list_has_it() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbad\nanna:x:1000:1000::/home/anna:/bin/sh\n";
        assert_eq!(name(users, 1000), Some("anna"));
        assert_eq!(name(users, 0), Some("root"));
        assert_eq!(name(users, 7), None);
    }

    #[test]
    fn whoever_asked_is_told_in_words() {
        let who = |user: Option<&str>, pid| Who {
            uid: Some(7),
            pid,
            user: user.map(str::to_owned),
        };
        assert_eq!(
            who(Some("anna"), Some(9)).to_string(),
            "anna (uid 7, pid 9)"
        );
        assert_eq!(who(Some("anna"), None).to_string(), "anna (uid 7)");
        assert_eq!(who(None, Some(9)).to_string(), "uid 7 (pid 9)");
        assert_eq!(Who::default().to_string(), "somebody unknown");
    }

    #[tokio::test]
    async fn the_kernel_tells_who_is_there() {
        let (one, _other) = UnixStream::pair().unwrap();
        let who = Who::of(&one);
        assert_eq!(who.pid, Some(std::process::id() as i32));
        assert!(who.uid.is_some());
    }
}
