//! Which pages may ask: by the `Origin` that a browser adds to their requests, and for the open wall by the host name that was asked for.
//! Pure. Decision 0068.
//!
//! A program sends no `Origin`, and is judged by its token alone. A page cannot forge one: neither `Origin` nor `Sec-Fetch-Site` is in the hands
//! of a page. A host name is: with DNS rebinding a page's own name resolves to this server, and its requests look like those of a page of ours.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use axum::http::{HeaderMap, header};
use hyper::Uri;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Scheme, host and port of a page, in lower case and without the scheme's default port, as browsers send it (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// `authority` without the default port of `scheme`. Browsers leave it out, and proxies may add it.
fn without_default_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return authority,
    };
    authority.strip_suffix(default_port).unwrap_or(authority)
}

/// True for a port as browsers write it: the text is compared, and another spelling would never match.
fn is_port_number(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == text)
}

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "an origin such as \"https://chain.example\": http or https, a host, perhaps a port, no path";
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(FORM)?;
        let parsed: Uri = text.parse().map_err(|_| FORM)?;
        let host = parsed.host().filter(|host| !host.is_empty() && !host.contains('*')).ok_or(FORM)?;
        let port = authority.strip_prefix(host).ok_or(FORM)?;
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port_number);
        if !matches!(scheme, "http" | "https") || !is_port {
            return Err(FORM);
        }
        Ok(Self(format!("{scheme}://{}", without_default_port(scheme, authority))))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Origin {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Origin".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^https?://[^/]+$" })
    }
}

/// Which pages of other servers may ask.
#[derive(Clone, Debug, Default)]
pub struct PageRules {
    /// Origins whose pages may use mailboxes. Empty: all, because every request needs a token that no browser adds by itself.
    pub mailboxes: Vec<Origin>,
    /// Origins whose pages may view the wall, besides those of this server.
    pub wall: Vec<Origin>,
    /// Host names under which the open wall may be asked for, in lower case, besides `localhost` and addresses. None: all.
    pub wall_hosts: Option<Vec<String>>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// A program, or a page of this server.
    Own,
    /// A page of another origin, where all may ask.
    Any,
    /// A page of another origin, which is listed.
    Listed,
    /// A page of another origin, which may not ask.
    Refused,
}

/// Which rule holds for a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// Notices, orders and events, and their WebSocket.
    Mailbox,
    /// The live numbers, which have no CORS.
    Wall,
}

/// Path prefixes that pages of other origins may request, where the rules allow it.
const SHARED_PREFIXES: [(&str, Resource); 5] = [
    ("/v1/notices", Resource::Mailbox),
    ("/v1/orders", Resource::Mailbox),
    ("/v1/events", Resource::Mailbox),
    ("/v1/ws", Resource::Mailbox),
    ("/v1/wall", Resource::Wall),
];

impl Resource {
    /// The resource at a path; none where pages of other origins have no business.
    pub(super) fn at(path: &str) -> Option<Self> {
        SHARED_PREFIXES.iter().find(|(prefix, _)| path.starts_with(prefix)).map(|(_, resource)| *resource)
    }
}

impl PageRules {
    /// Who asks for this resource.
    pub(super) fn judge(&self, resource: Resource, headers: &HeaderMap) -> Page {
        if !headers.contains_key(header::ORIGIN) || is_from_here(headers) || is_same_origin(headers) {
            return Page::Own;
        }
        let listed = match resource {
            Resource::Mailbox if self.mailboxes.is_empty() => return Page::Any,
            Resource::Mailbox => &self.mailboxes,
            Resource::Wall => &self.wall,
        };
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let (first, more) = (origins.next().and_then(|origin| origin.to_str().ok()), origins.next());
        let is_listed = more.is_none()
            && first.and_then(|origin| origin.parse::<Origin>().ok()).is_some_and(|origin| listed.contains(&origin));
        if is_listed { Page::Listed } else { Page::Refused }
    }

    /// True when the open wall may be asked for under this host name.
    pub(super) fn is_wall_host(&self, headers: &HeaderMap) -> bool {
        let Some(hosts) = &self.wall_hosts else { return true };
        let name = host_name(headers).to_ascii_lowercase();
        name == "localhost" || host_address(&name).is_some() || hosts.contains(&name)
    }
}

/// True when the browser says that a page of this server asks, whatever host name a proxy passed on.
fn is_from_here(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    sites.next().is_some_and(|site| site == "same-origin") && sites.next().is_none()
}

/// True when the origin is the host that was asked for. The default port of the origin's scheme may be written or left out.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(&header::ORIGIN), text(&header::HOST)) else { return false };
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    without_default_port(scheme, host).eq_ignore_ascii_case(without_default_port(scheme, authority))
}

/// The host that was asked for, without its port. Empty when there is none.
pub(super) fn host_name(headers: &HeaderMap) -> &str {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name)
}

/// The address that a host name is, if it is one. An IPv6 address stands in brackets.
pub(super) fn host_address(name: &str) -> Option<IpAddr> {
    name.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn listing(origins: &[&str]) -> PageRules {
        let origins: Vec<Origin> = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        PageRules { mailboxes: origins.clone(), wall: origins, wall_hosts: None }
    }

    #[test]
    fn an_origin_is_a_scheme_a_host_and_perhaps_a_port() {
        for (text, origin) in [
            ("https://chain.example", "https://chain.example"),
            ("HTTPS://Chain.Example:443", "https://chain.example"),
            ("http://chain.example:8080", "http://chain.example:8080"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), origin, "{text}");
        }
        for text in [
            "",
            "*",
            "null",
            "chain.example",
            "https://",
            "https://chain.example/",
            "https://chain.example/app",
            "https://chain.example?a",
            "https://*.chain.example",
            "https://me@chain.example",
            "https://chain.example:",
            "https://chain.example:99999",
            "https://chain.example:0",
            "https://chain.example:0443",
            "https://chain.example:+443",
            "ftp://chain.example",
            "https://a b.example",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_listed_origin_is_compared_whole() {
        let rules = listing(&["https://good.example", "http://good.example:8080"]);
        let of = |origin: &'static str| {
            rules.judge(Resource::Mailbox, &headers(&[("host", "push.example"), ("origin", origin)]))
        };
        for origin in
            ["https://good.example", "https://good.example:443", "HTTPS://GOOD.example", "http://good.example:8080"]
        {
            assert_eq!(of(origin), Page::Listed, "{origin}");
        }
        assert_eq!(of("https://push.example"), Page::Own);
        for origin in [
            "https://good.example.evil.com",
            "https://evil.com/https://good.example",
            "https://notgood.example",
            "http://good.example",
            "https://good.example:8080",
            "https://good.example.",
            "null",
            "",
        ] {
            assert_eq!(of(origin), Page::Refused, "{origin}");
        }
        let twice =
            headers(&[("host", "push.example"), ("origin", "https://good.example"), ("origin", "https://evil.com")]);
        assert_eq!(rules.judge(Resource::Mailbox, &twice), Page::Refused);
    }

    #[test]
    fn without_a_list_any_page_uses_mailboxes_and_only_pages_of_this_server_the_wall() {
        let rules = PageRules::default();
        for origin in ["https://chain.example", "null", "file://"] {
            let page = headers(&[("host", "push.example"), ("origin", origin)]);
            assert_eq!(rules.judge(Resource::Mailbox, &page), Page::Any, "{origin}");
            assert_eq!(rules.judge(Resource::Wall, &page), Page::Refused, "{origin}");
        }
        let (own, program) =
            (headers(&[("host", "a.example"), ("origin", "http://a.example")]), headers(&[("host", "a.example")]));
        for resource in [Resource::Mailbox, Resource::Wall] {
            assert_eq!((rules.judge(resource, &own), rules.judge(resource, &program)), (Page::Own, Page::Own));
        }
    }

    #[test]
    fn a_page_of_this_server_is_known_behind_a_proxy_that_changes_the_host() {
        let rules = listing(&[]);
        let from = |site: &'static str| {
            let page = [("host", "127.0.0.1:8377"), ("origin", "https://push.example"), ("sec-fetch-site", site)];
            rules.judge(Resource::Wall, &headers(&page))
        };
        assert_eq!(from("same-origin"), Page::Own);
        assert_eq!(
            (from("same-site"), from("cross-site"), from("none")),
            (Page::Refused, Page::Refused, Page::Refused)
        );
    }

    #[test]
    fn the_default_port_may_be_written_or_left_out() {
        let is_same = |origin, host| is_same_origin(&headers(&[("origin", origin), ("host", host)]));
        for (origin, host) in [
            ("https://push.example", "push.example"),
            ("https://push.example", "push.example:443"),
            ("https://push.example:443", "PUSH.example"),
            ("http://push.example", "push.example:80"),
            ("http://[::1]", "[::1]:80"),
            ("http://localhost:8377", "localhost:8377"),
        ] {
            assert!(is_same(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://push.example", "push.example:80"),
            ("http://push.example", "push.example:443"),
            ("http://push.example", "push.example:8377"),
            ("https://push.example.evil", "push.example"),
            ("https://push.example:4430", "push.example:443"),
            ("null", "push.example"),
        ] {
            assert!(!is_same(origin, host), "{origin} {host}");
        }
        assert!(!is_same_origin(&HeaderMap::new()));
    }

    #[test]
    fn the_open_wall_answers_under_its_own_names_and_addresses_alone() {
        let rules = PageRules { wall_hosts: Some(vec!["wall.example".into()]), ..PageRules::default() };
        let asked = |host: &'static str| rules.is_wall_host(&headers(&[("host", host)]));
        for host in ["localhost", "LOCALHOST:8377", "127.0.0.1:8377", "[::1]:8377", "10.0.0.5", "Wall.Example:80"] {
            assert!(asked(host), "{host}");
        }
        for host in ["evil.example", "wall.example.evil.com", "evil.wall.example", "127.0.0.1.evil.example", ""] {
            assert!(!asked(host), "{host}");
        }
        assert!(!rules.is_wall_host(&HeaderMap::new()));
        assert!(PageRules::default().is_wall_host(&headers(&[("host", "any.example")])));
    }
}
