//! The web pages, embedded in the binary: plain ES modules, stylesheets and one font. Nothing is fetched from another
//! host and nothing is built.
//!
//! This is a table of files by URL path; `net` serves them. The SDK's sources are served unchanged.
//!
//! Refused: a framework and a bundler (every source build of this Rust project would need Node), and a crate that
//! embeds whole folders (these are two dozen files, and one table should say which path serves which file).

/// One static file.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// URL path under which it is served.
    pub path: &'static str,
    /// Value of its `Content-Type` header.
    pub media: &'static str,
    /// Content, embedded by the compiler.
    pub bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const FONT: &str = "font/woff2";
const TEXT: &str = "text/plain; charset=utf-8";

macro_rules! files {
    ($($path:literal: $media:ident = $file:literal),* $(,)?) => {
        &[$(File { path: $path, media: $media, bytes: include_bytes!($file) }),*]
    };
}

/// Files that every page uses; served by both listeners.
pub const SHARED: &[File] = files! {
    "/assets/format.js": JS = "shared/format.js",
    "/assets/toolbar.js": JS = "shared/toolbar.js",
    "/assets/words.js": JS = "shared/words.js",
    "/assets/theme.css": CSS = "shared/theme.css",
    "/assets/bell.svg": SVG = "shared/bell.svg",
    "/assets/inter.woff2": FONT = "vendor/inter.woff2",
    "/assets/LICENSES.txt": TEXT = "vendor/LICENSES.txt",
};

/// Files of the public listener: the wall, and the SDK.
pub const PUBLIC: &[File] = files! {
    "/wall/": HTML = "wall/index.html",
    "/assets/wall.css": CSS = "wall/wall.css",
    "/assets/wall.js": JS = "wall/wall.js",
    "/assets/curve.js": JS = "wall/curve.js",
    "/assets/feed.js": JS = "wall/feed.js",
    "/assets/uplot.js": JS = "vendor/uplot.js",
    "/assets/uplot.css": CSS = "vendor/uplot.css",
    "/assets/sdk/browser.js": JS = "../../protocol/js/src/browser.js",
    "/assets/sdk/close.js": JS = "../../protocol/js/src/close.js",
    "/assets/sdk/core.js": JS = "../../protocol/js/src/core.js",
    "/assets/sdk/shell.js": JS = "../../protocol/js/src/shell.js",
    "/assets/sdk/web.js": JS = "../../protocol/js/src/web.js",
};

/// The playground, a till and a phone; served by the public listener with `serve --playground` and by the demo, on
/// loopback only.
pub const PLAYGROUND: &[File] = files! {
    "/playground/till/": HTML = "playground/till.html",
    "/playground/phone/": HTML = "playground/phone.html",
    "/assets/playground.css": CSS = "playground/playground.css",
    "/assets/bell.js": JS = "playground/bell.js",
    "/assets/phone.js": JS = "playground/phone.js",
    "/assets/till.js": JS = "playground/till.js",
    "/assets/playground.js": JS = "playground/playground.js",
};

/// The operators' console; served by the admin listener, on loopback only.
pub const CONSOLE: &[File] = files! {
    "/console/": HTML = "console/index.html",
    "/assets/alerts.js": JS = "console/alerts.js",
    "/assets/console.css": CSS = "console/console.css",
    "/assets/console.js": JS = "console/console.js",
    "/assets/console_words.js": JS = "console/console_words.js",
    "/assets/details.js": JS = "console/details.js",
    "/assets/latency.js": JS = "console/latency.js",
    "/assets/table.js": JS = "console/table.js",
};

#[cfg(test)]
mod tests {
    use orderbell_protocol::RejectionReason;
    use orderbell_protocol::alert::AlertCode;
    use orderbell_protocol::frame::OrderEnd;

    use super::*;

    #[test]
    fn pages_request_only_files_of_their_own_listener() {
        let public = [SHARED, PUBLIC, PLAYGROUND].concat();
        let admin = [SHARED, CONSOLE].concat();
        for (listener, file) in [&public, &admin].iter().flat_map(|all| all.iter().map(move |file| (all, file))) {
            if ![HTML, CSS, JS].contains(&file.media) {
                continue;
            }
            let text = std::str::from_utf8(file.bytes).unwrap();
            for asset in text.split("/assets/").skip(1) {
                let name = asset.split(['"', '\'', ')', '`']).next().unwrap();
                let path = format!("/assets/{name}");
                assert!(listener.iter().any(|known| known.path == path), "{} requests {path}", file.path);
            }
            let foreign = ["src=\"http", "href=\"http", "url(http", "url(\"http", "from \"http"];
            assert!(!foreign.iter().any(|word| text.contains(word)), "{} requests another host", file.path);
        }
    }

    #[test]
    fn the_font_is_small() {
        let font = SHARED.iter().find(|file| file.media == FONT).unwrap();
        assert!(font.bytes.len() <= 80 * 1024, "{}", font.bytes.len());
    }

    #[test]
    fn the_console_has_words_for_every_alert_code() {
        let file = CONSOLE.iter().find(|file| file.path == "/assets/alerts.js").unwrap();
        let text = std::str::from_utf8(file.bytes).unwrap();
        for code in AlertCode::ALL {
            assert!(text.contains(&format!("  {}: {{", code.word())), "alerts.js lacks {}", code.word());
        }
    }

    #[test]
    fn the_playground_has_words_in_both_languages_for_every_reason_of_a_rejection() {
        let file = SHARED.iter().find(|file| file.path == "/assets/words.js").unwrap();
        let text = std::str::from_utf8(file.bytes).unwrap();
        let reasons = RejectionReason::KNOWN.map(RejectionReason::word).into_iter();
        for word in reasons.chain(OrderEnd::KNOWN.map(OrderEnd::word)) {
            let keys = [format!("    reason_{word}: "), format!("    \"reason_{word}\": ")];
            let found: usize = keys.iter().map(|key| text.matches(key.as_str()).count()).sum();
            assert_eq!(found, 2, "words.js, reason_{word}");
        }
    }
}
