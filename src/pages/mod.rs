//! The pages, inside the binary: plain ES modules, styles, one typeface. Nothing is fetched from elsewhere, nothing is built.
//!
//! A table of files by address; `net` serves them. The SDK is among them as it stands. Refused: a framework and a build (Node in every source build of a Rust project), a crate
//! that embeds folders (this is a dozen files, and which address gives which file should stand somewhere).

/// One file of the pages.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its address.
    pub path: &'static str,
    /// Its media type.
    pub media: &'static str,
    /// Its bytes.
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

/// What every page needs.
pub const SHARED: &[File] = files! {
    "/assets/figures.js": JS = "shared/figures.js",
    "/assets/tools.js": JS = "shared/tools.js",
    "/assets/words.js": JS = "shared/words.js",
    "/assets/look.css": CSS = "shared/look.css",
    "/assets/bell.svg": SVG = "shared/bell.svg",
    "/assets/inter.woff2": FONT = "vendor/inter.woff2",
    "/assets/LICENSES.txt": TEXT = "vendor/LICENSES.txt",
};

/// What the public listener shows.
pub const PUBLIC: &[File] = files! {
    "/wall/": HTML = "wall/index.html",
    "/assets/wall.css": CSS = "wall/wall.css",
    "/assets/wall.js": JS = "wall/wall.js",
    "/assets/curve.js": JS = "wall/curve.js",
    "/assets/feed.js": JS = "wall/feed.js",
    "/assets/uplot.js": JS = "vendor/uplot.js",
    "/assets/uplot.css": CSS = "vendor/uplot.css",
    "/assets/sdk/browser.js": JS = "../../protocol/js/src/browser.js",
    "/assets/sdk/core.js": JS = "../../protocol/js/src/core.js",
    "/assets/sdk/shell.js": JS = "../../protocol/js/src/shell.js",
    "/assets/sdk/web.js": JS = "../../protocol/js/src/web.js",
};

/// What is there to try it with, on loopback.
pub const TRIAL: &[File] = files! {
    "/try/till/": HTML = "try/till.html",
    "/try/phone/": HTML = "try/phone.html",
    "/assets/try.css": CSS = "try/try.css",
    "/assets/bell.js": JS = "try/bell.js",
    "/assets/phone.js": JS = "try/phone.js",
    "/assets/till.js": JS = "try/till.js",
    "/assets/trial.js": JS = "try/trial.js",
};

/// What the admin listener shows, on loopback.
pub const CONSOLE: &[File] = files! {
    "/console/": HTML = "console/index.html",
    "/assets/console.css": CSS = "console/console.css",
    "/assets/console.js": JS = "console/console.js",
    "/assets/numbers.js": JS = "console/numbers.js",
    "/assets/story.js": JS = "console/story.js",
    "/assets/table.js": JS = "console/table.js",
    "/assets/vocabulary.js": JS = "console/vocabulary.js",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_ask_for_nothing_that_is_not_here() {
        let public = [SHARED, PUBLIC, TRIAL].concat();
        let admin = [SHARED, CONSOLE].concat();
        for (listener, file) in [&public, &admin].iter().flat_map(|all| all.iter().map(move |file| (all, file))) {
            if ![HTML, CSS, JS].contains(&file.media) {
                continue;
            }
            let text = std::str::from_utf8(file.bytes).unwrap();
            for asset in text.split("/assets/").skip(1) {
                let name = asset.split(['"', '\'', ')', '`']).next().unwrap();
                let path = format!("/assets/{name}");
                assert!(listener.iter().any(|known| known.path == path), "{} asks for {path}", file.path);
            }
            let elsewhere = ["src=\"http", "href=\"http", "url(http", "url(\"http", "from \"http"];
            assert!(!elsewhere.iter().any(|word| text.contains(word)), "{} asks somebody else", file.path);
        }
    }

    #[test]
    fn the_typeface_is_small() {
        let font = SHARED.iter().find(|file| file.media == FONT).unwrap();
        assert!(font.bytes.len() <= 80 * 1024, "{}", font.bytes.len());
    }
}
