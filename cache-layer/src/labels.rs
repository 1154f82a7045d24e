//! Closed sets of names: enums whose variants are the values of a metric's label.

/// Defines such an enum, with a variant, its documentation and its label in one place.
macro_rules! labels {
    ($(#[$meta:meta])+ pub enum $name:ident { $($(#[$doc:meta])+ $variant:ident => $label:literal,)+ }) => {
        $(#[$meta])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])+ #[doc = concat!("\n\nIts label: `", $label, "`.")] $variant,)+
        }

        impl $name {
            /// All variants: the closed set of values of a metric's label.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name, for a metric's label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use labels;
