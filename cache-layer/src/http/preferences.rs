//! The preferences that a client sent, where the cache negotiates in the application's place.

use http::{Extensions, HeaderMap};

/// A client's own `Accept-Encoding` and `Accept-Language`, where [`Vary::negotiate`](crate::Vary::negotiate) or
/// [`Vary::languages`](crate::Vary::languages) has replaced these fields. It is in the extensions of the request that the
/// application gets; a request that passes through unchanged has no such extension, because it still has its own fields.
///
/// It is for logs and statistics only: the response is stored for all clients with the same negotiated preference, whatever else
/// they have sent.
///
/// ```
/// use cache_layer::ClientPreferences;
/// use http::{Request, header::ACCEPT_LANGUAGE};
///
/// fn log<B>(request: &Request<B>) {
///     let preferences = request.extensions().get::<ClientPreferences>().map(ClientPreferences::headers);
///     let languages = preferences.unwrap_or(request.headers()).get(ACCEPT_LANGUAGE);
///     println!("{languages:?}");
/// }
/// # log(&Request::new(()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPreferences(HeaderMap);

impl ClientPreferences {
    /// The two fields as the client sent them, with all their lines, including a field that was not replaced.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0
    }

    /// Keeps the fields, unless a cache further out has already done so.
    pub(super) fn keep(sent: HeaderMap, extensions: &mut Extensions) {
        extensions.get_or_insert_with(|| Self(sent));
    }
}
