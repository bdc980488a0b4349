//! Finders of fixed texts.

/// Makes a static finder for each text. To make a finder costs more than to use it once.
macro_rules! finders {
    ($($name:ident = $text:literal;)*) => {
        $(static $name: std::sync::LazyLock<memchr::memmem::Finder<'static>> =
            std::sync::LazyLock::new(|| memchr::memmem::Finder::new($text));)*
    };
}

pub(super) use finders;
