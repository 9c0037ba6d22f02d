//! The hosts that requests of handlers may reach. Pure.
//!
//! An entry is a name, a name behind `*.`, an address, a network, or the word "public". A name that is allowed may
//! have any address. Otherwise the address decides, so it is checked behind the lookup.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every address of the public internet.
const PUBLIC: &str = "public";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AllowList {
    /// `None`: everything is allowed.
    entries: Option<Vec<Entry>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Public,
    /// A host of this name, or with the flag one below it.
    Name {
        name: String,
        is_below: bool,
        port: Option<u16>,
    },
    Network {
        address: IpAddr,
        bits: u8,
    },
}

impl AllowList {
    /// An error has the entry that is none.
    pub(super) fn of(entries: Option<&[String]>) -> Result<Self, String> {
        let entries = match entries {
            None => None,
            Some(texts) => {
                let entries = texts.iter().map(|text| entry(text).ok_or(text.clone()));
                Some(entries.collect::<Result<_, _>>()?)
            }
        };
        Ok(Self { entries })
    }

    #[cfg(test)]
    pub(crate) fn parsed(entries: &[String]) -> Self {
        Self::of(Some(entries)).expect("the entries are right")
    }

    /// Whether the host is allowed whatever its address. A host that is an address itself is.
    pub(crate) fn allows_host(&self, host: &str, port: u16) -> bool {
        let Some(entries) = &self.entries else {
            return true;
        };
        let literal = host.parse::<IpAddr>().ok();
        entries.iter().any(|entry| match entry {
            Entry::Name {
                name,
                is_below,
                port: own,
            } => {
                let rest = host.strip_suffix(name.as_str());
                let is_it = match rest {
                    Some(rest) if *is_below => rest.ends_with('.') && rest.len() > 1,
                    Some(rest) => rest.is_empty(),
                    None => false,
                };
                is_it && own.is_none_or(|own| own == port)
            }
            _ => literal.is_some_and(|address| entry.has(address)),
        })
    }

    /// Whether an address is allowed of a host that is not.
    pub(crate) fn allows_address(&self, address: IpAddr) -> bool {
        let entries = self.entries.as_ref();
        entries.is_none_or(|entries| entries.iter().any(|entry| entry.has(address)))
    }

    /// Whether the address of a host matters: a host that no name allows needs no lookup otherwise.
    pub(crate) fn has_addresses(&self) -> bool {
        let is_name = |entry: &Entry| matches!(entry, Entry::Name { .. });
        let entries = self.entries.as_ref();
        entries.is_none_or(|entries| !entries.iter().all(is_name))
    }
}

impl fmt::Display for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(entries) = &self.entries else {
            return f.write_str("every host");
        };
        if entries.is_empty() {
            return f.write_str("no host");
        }
        for (index, entry) in entries.iter().enumerate() {
            f.write_str(if index > 0 { ", " } else { "" })?;
            match entry {
                Entry::Public => f.write_str(PUBLIC)?,
                Entry::Name {
                    name,
                    is_below,
                    port,
                } => {
                    write!(f, "{}{name}", if *is_below { "*." } else { "" })?;
                    if let Some(port) = port {
                        write!(f, ":{port}")?;
                    }
                }
                Entry::Network { address, bits } => write!(f, "{address}/{bits}")?,
            }
        }
        Ok(())
    }
}

impl Entry {
    fn has(&self, found: IpAddr) -> bool {
        let found = found.to_canonical();
        match self {
            Self::Public => is_public(found),
            Self::Name { .. } => false,
            Self::Network { address, bits } => match (address, found) {
                (IpAddr::V4(own), IpAddr::V4(found)) => {
                    let differs = own.to_bits() ^ found.to_bits();
                    differs.checked_shr(32 - u32::from(*bits)).unwrap_or(0) == 0
                }
                (IpAddr::V6(own), IpAddr::V6(found)) => {
                    let differs = own.to_bits() ^ found.to_bits();
                    differs.checked_shr(128 - u32::from(*bits)).unwrap_or(0) == 0
                }
                _ => false,
            },
        }
    }
}

fn entry(text: &str) -> Option<Entry> {
    if text == PUBLIC {
        return Some(Entry::Public);
    }
    let text = text.to_ascii_lowercase();
    if let Some((address, bits)) = text.split_once('/') {
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse().ok().filter(|bits| *bits <= most)?;
        return Some(Entry::Network { address, bits });
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Some(Entry::Network { address, bits });
    }
    let (name, port) = match text.split_once(':') {
        None => (text.as_str(), None),
        Some((name, port)) => (name, Some(port.parse().ok().filter(|port| *port > 0)?)),
    };
    let (name, is_below) = match name.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = !name.is_empty() && name.bytes().all(is_usual) && !name.starts_with('.');
    is_name.then(|| Entry::Name {
        name: name.trim_end_matches('.').to_owned(),
        is_below,
        port,
    })
}

/// Neither private nor local nor for a special purpose.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    if parts[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        // The translation of an IPv4 address.
        let [.., a, b, c, d] = address.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    let is_global = parts[0] & 0xe000 == 0x2000;
    let is_special = (parts[0] == 0x2001 && (parts[1] < 0x200 || parts[1] == 0xdb8))
        || parts[0] == 0x2002
        || parts[0] == 0x3fff;
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> AllowList {
        let entries: Vec<String> = entries.iter().map(|one| (*one).to_owned()).collect();
        AllowList::of(Some(&entries)).unwrap()
    }

    fn address(list: &AllowList, text: &str) -> bool {
        list.allows_address(text.parse().unwrap())
    }

    #[test]
    fn without_a_list_everything_is_allowed_and_with_an_empty_one_nothing() {
        let all = AllowList::default();
        assert!(all.allows_host("a.example", 80) && address(&all, "127.0.0.1"));
        let none = list(&[]);
        assert!(!none.allows_host("a.example", 80) && !address(&none, "127.0.0.1"));
        assert!(!none.has_addresses());
    }

    #[test]
    fn a_name_is_allowed_as_a_whole_or_below() {
        let list = list(&["api.example", "*.b.example", "c.example:8443"]);
        for (host, port, expected) in [
            ("api.example", 80, true),
            ("x.api.example", 80, false),
            ("badapi.example", 80, false),
            ("x.b.example", 80, true),
            ("x.y.b.example", 80, true),
            ("b.example", 80, false),
            (".b.example", 80, false),
            ("xb.example", 80, false),
            ("c.example", 8443, true),
            ("c.example", 443, false),
        ] {
            assert_eq!(list.allows_host(host, port), expected, "{host}:{port}");
        }
        assert!(!list.has_addresses() && !address(&list, "10.0.0.1"));
    }

    #[test]
    fn a_network_decides_by_the_address() {
        let list = list(&["10.0.0.0/8", "192.168.1.7", "fd00::/8", "[::1]"]);
        for (text, expected) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("::ffff:10.1.1.1", true),
            ("fd12::1", true),
            ("fe80::1", false),
            ("::1", true),
        ] {
            assert_eq!(address(&list, text), expected, "{text}");
            assert_eq!(list.allows_host(text, 80), expected, "{text}");
        }
        assert!(list.has_addresses() && !list.allows_host("a.example", 80));
        let all = super::tests::list(&["0.0.0.0/0"]);
        assert!(address(&all, "127.0.0.1") && !address(&all, "::1"));
    }

    #[test]
    fn public_has_no_address_of_a_local_network() {
        let list = list(&["public"]);
        for text in [
            "93.184.216.34",
            "8.8.8.8",
            "2606:4700::1",
            "64:ff9b::808:808",
        ] {
            assert!(address(&list, text), "{text}");
        }
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(!address(&list, text), "{text}");
        }
    }

    #[test]
    fn what_is_neither_host_nor_network_is_told() {
        for bad in [
            "",
            "*",
            "*.",
            "http://a",
            "10.0.0.0/33",
            "a b",
            "a:0",
            "a:x",
            "::/129",
        ] {
            let entries = [bad.to_owned()];
            assert_eq!(AllowList::of(Some(&entries)), Err(bad.to_owned()));
        }
    }
}
