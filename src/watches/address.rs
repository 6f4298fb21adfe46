//! Which addresses hits may be posted to.
//!
//! A webhook makes the server connect to where a caller says, so a caller could have it reach what only the server can
//! reach: its own services, the machines beside it, a cloud's metadata. Therefore a name is resolved here, every address
//! it has is looked at, and the connection is made to what was looked at and not to what the name may stand for a moment
//! later. Redirects are not followed and no proxy is used, since either would connect elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Longest address in bytes.
const MAX_URL_BYTES: usize = 2000;

/// What may be connected to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Anything.
    pub(super) private: bool,
    /// This machine.
    pub(super) loopback: bool,
}

impl Reach {
    fn allows(self, address: IpAddr) -> bool {
        let address = plain(address);
        self.private || (self.loopback && address.is_loopback()) || is_public(address)
    }

    /// Says why a URL cannot be a webhook's, as far as its text tells.
    pub(super) fn check(self, url: &str) -> Result<(), String> {
        if url.len() > MAX_URL_BYTES {
            return Err(format!("a webhook's url has at most {MAX_URL_BYTES} bytes"));
        }
        let uri: Uri = url.parse().map_err(|_| "a webhook's url is not a URL".to_owned())?;
        let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority());
        let authority = authority.filter(|_| ["http", "https"].contains(&scheme));
        let authority = authority.ok_or_else(|| "a webhook's url starts with http:// or https://".to_owned())?;
        if authority.as_str().contains('@') {
            return Err("a webhook's url holds no credentials; deliveries are signed".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(address) if !self.allows(address) => Err(refusal(address)),
            _ if host.is_empty() => Err("a webhook's url names a host".to_owned()),
            _ => Ok(()),
        }
    }
}

fn refusal(address: IpAddr) -> String {
    format!("{address} is not a public address; the setting watch.allow_private_addresses would allow it")
}

/// Looks names up and gives their addresses only when all of them are allowed.
#[derive(Debug)]
pub(super) struct Guarded(pub(super) Reach);

impl Resolver for Guarded {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        match found.iter().find(|address| !self.0.allows(address.ip())) {
            None => Ok(found),
            Some(refused) => {
                let refusal = refusal(refused.ip());
                Err(Error::Io(std::io::Error::new(std::io::ErrorKind::PermissionDenied, refusal)))
            }
        }
    }
}

/// The IPv4 address that an IPv6 one stands for, if it does: mapped, translated (RFC 6052) or 6to4.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, .., y, z] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b) {
        _ if v6.to_ipv4_mapped().is_some() => v4(y, z),
        (0x64, 0xff9b) => v4(y, z),
        (0x2002, high) => v4(high, v6.segments()[2]),
        _ => address,
    }
}

/// Whether an address is one of the internet at large (after the IANA special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let special = v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || v4.is_multicast()
        || a == 0
        || a >= 240
        // Shared by carriers, protocol assignments, benchmarks.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b));
    !special
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [a, b, ..] = v6.segments();
    // Of 2000::/3 alone, without protocol assignments (Teredo among them) and documentation.
    (a & 0xe000) == 0x2000
        && !(a == 0x2001 && b < 0x200)
        && !(a == 0x2001 && b == 0xdb8)
        && !(a == 0x3fff && b < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Reach = Reach { private: false, loopback: false };

    #[test]
    fn only_public_addresses_are_reached() {
        for refused in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            assert!(!STRICT.allows(refused.parse().unwrap()), "{refused}");
            assert!(Reach { private: true, ..STRICT }.allows(refused.parse().unwrap()));
        }
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
        {
            assert!(STRICT.allows(public.parse().unwrap()), "{public}");
        }
        let local = Reach { private: false, loopback: true };
        assert!(local.allows("127.0.0.9".parse().unwrap()) && local.allows("::1".parse().unwrap()));
        assert!(local.allows("::ffff:127.0.0.1".parse().unwrap()) && !local.allows("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn urls_are_checked_by_their_text() {
        for bad in [
            "",
            "hooks.example.com/x",
            "ftp://example.com/",
            "file:///etc/passwd",
            "http://",
            "http://u:p@example.com/",
            "http://10.0.0.1/",
            "https://[::1]:80/",
            "http://[fe80::1]/",
            &format!("http://example.com/{}", "x".repeat(2000)),
        ] {
            assert!(STRICT.check(bad).is_err(), "{bad}");
        }
        for good in ["https://hooks.example.com/a?b=c", "http://1.1.1.1:8080", "http://[2606:4700::1111]/"] {
            assert_eq!(STRICT.check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn names_are_resolved_and_checked_before_a_connection() {
        let config = Config::builder().proxy(None).timeout_global(Some(std::time::Duration::from_secs(5))).build();
        let agent =
            ureq::Agent::with_parts(config, ureq::unversioned::transport::DefaultConnector::default(), Guarded(STRICT));
        for url in ["http://localhost:1/", "http://127.1:1/", "http://2130706433:1/"] {
            let text = agent.post(url).send_empty().unwrap_err().to_string();
            assert!(text.contains("is not a public address"), "{url}: {text}");
        }
    }
}
