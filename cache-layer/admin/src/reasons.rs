//! What each reason means for an operator, and what can be done about it.

use cache_layer::telemetry::NoCacheReason;

/// A sentence or two.
pub(crate) fn meaning(reason: NoCacheReason) -> &'static str {
    of_request(reason).or_else(|| of_response(reason)).or_else(|| of_moment(reason)).unwrap_or("See the documentation.")
}

/// Reasons in the request.
fn of_request(reason: NoCacheReason) -> Option<&'static str> {
    use NoCacheReason as R;
    Some(match reason {
        R::Method => "The method is neither GET nor HEAD. A success of an unsafe one voids what is stored for its URL.",
        R::ConnectMethod => "CONNECT asks for a tunnel; there is no response to keep.",
        R::Upgrade => "The request asks to leave HTTP, for a WebSocket most likely.",
        R::RequestBody => "A GET or HEAD with content, which is not part of the key.",
        R::NoAuthority => {
            "The request doesn't say, or says in two ways, which host it is for. Without one, hosts would share what is stored."
        }
        R::RangeRequest => {
            "A part was asked for of what will most likely not be kept, or in another unit than bytes: the application answers with it."
        }
        R::Nested => "Another layer further out, over the same cache, is loading this very entry and stores it.",
        R::ConditionalRequest => {
            "The request has If-Match or If-Unmodified-Since, which only the application can answer."
        }
        R::RequestNoStore => "The client says no-store.",
        R::OnlyIfCached => "The client wants a stored response and nothing else, and there is none.",
        R::Cookie => {
            "The request has a cookie. Either the layer passes by requests with it (bypass_on_cookies), or only a rule would keep the response, and a rule doesn't know what the cookie makes of it: state freshness in the response."
        }
        R::Off => "The cache is switched off (enabled).",
        R::Hint => "A layer outside of the cache says that the request is not for it (Hints::bypass).",
        R::BypassIf => "The request is not for the cache, by the application's own bypass_if.",
        R::UnclearPath => {
            "The path has dot segments, empty segments or needless encoding: it may mean another one to the application than to the rules."
        }
        R::ContentType => {
            "The content may be part of the key, and the request doesn't say in one way what it is (Content-Type)."
        }
        R::ContentTooLarge => {
            "The content may be part of the key, and is longer than what is read for that (max_content)."
        }
        R::ContentUnread => {
            "The content may be part of the key, and did not come to its end: it broke off, took too long, or had another length than announced."
        }
        R::Expect => "The client waits for the application's word before it sends its content (Expect: 100-continue).",
        R::HeadMiss => "Nothing is stored to answer HEAD from, and a response to HEAD is not kept.",
        R::StatedPort => {
            "The request names a port that goes without saying, which the application may have repeated in what it made."
        }
        _ => return None,
    })
}

/// Reasons in the response.
fn of_response(reason: NoCacheReason) -> Option<&'static str> {
    use NoCacheReason as R;
    Some(match reason {
        R::Unmatched => {
            "The application said 304 about another response than the one that is stored. The next request asks for the whole."
        }
        R::Status => {
            "The status is not kept: it is informational, 206 or 304, or the response says must-understand and the status is not understood."
        }
        R::NoStore => "The response says no-store.",
        R::Private => "The response says private: it is one user's.",
        R::NoCache => "The response says no-cache and has no ETag or Last-Modified to validate it by.",
        R::Authorization => {
            "The request has Authorization, and the response doesn't permit sharing: public, s-maxage or must-revalidate would."
        }
        R::SetCookie => "The response sets a cookie. Set it elsewhere, or have the layer strip it (set_cookie).",
        R::VaryStar => "Vary: * (or more fields than can be told apart): no other request can select the response.",
        R::EventStream => "A stream of events has no end.",
        R::Grpc => "gRPC ends in trailers and may stream without end.",
        R::ContentRange => "The content is a part, whatever the status says.",
        R::Trailers => "The response has or announces trailers.",
        R::NoFreshness => {
            "Neither the response nor a rule says for how long it is fresh: send Cache-Control, or set a ttl for the path."
        }
        R::AlreadyStale => {
            "It was stale when it came: its Age exceeds its lifetime, or what states the lifetime can't be read."
        }
        R::Rule => "A rule says that nothing of these requests is kept: by bypass, or by a lifetime of zero.",
        R::OneClient => {
            "A field of the response (Clear-Site-Data, a CSRF token, a nonce) makes it one client's, and only a rule would keep it: state freshness in the response."
        }
        R::KeepIf => "The application's own keep_if says that such a response is not kept.",
        R::Incremental => {
            "The message is to be passed on as it comes in (Incremental), so that nobody waits for all of it."
        }
        R::SecPurpose => "An error in answer to a request that was made ahead of its user is about that request alone.",
        R::Dictionary => "The content can be read only with a dictionary that few clients have.",
        R::BodyTooLarge => "The content exceeds max_body.",
        R::BodyTruncated => "The content was not as long as announced.",
        R::BodyFailed => "The content ended in an error.",
        R::ServiceFailed => "The service failed and gave no response.",
        R::TooManyTags => "More than 1,024 tags, or one of more than 256 bytes: an invalidation could not reach it.",
        R::TooManyFields => "More than 1,000 header fields.",
        R::MadeFromStale => {
            "It was made from something stored that is stale, or that may have been invalidated meanwhile."
        }
        R::Unserializable => "The codec can't write the value, or its type doesn't read it back.",
        R::RedirectToItself => {
            "A redirect to what it answers, as from http to https where both share what is stored. Kept, it would lead clients round in a circle."
        }
        _ => return None,
    })
}

/// Reasons in the state of the cache.
fn of_moment(reason: NoCacheReason) -> Option<&'static str> {
    use NoCacheReason as R;
    Some(match reason {
        R::LeaseLost => "An invalidation, or another load, overtook the load: what it brought may be old.",
        R::WaitedTooLong => "Another request's load of the same key took longer than the lock timeout.",
        R::Switched => "An operator has switched reading off (bypass-reads), for a while.",
        R::FirstSight => "It was loaded for the first time, and is only stored from the second load on (second_sight).",
        R::FillsStopped => "An operator has stopped storing (stop-fills), for a while.",
        R::StoreUnavailable => "The store did not answer in time: see whether Redis is up.",
        R::StoreFull => "The store has no room and evicts nothing: set a maxmemory-policy that evicts.",
        R::StoreBusy => "The store can't keep up: too much is on its way to it already.",
        R::Abandoned => "No request waited for the load any more, and it was ended.",
        R::Overloaded => "There was no room at the application (max_loads) for as long as a request waits.",
        R::Remembered => {
            "A recent response for the same key could not be kept, so that requests don't wait for one another for some seconds."
        }
        R::BackedOff => "The application failed lately, and is left alone for a while.",
        R::FromTheFuture => {
            "What is stored was made more than a second later than it is now, so that its age is not known. The clock that freshness is judged by was set back: Redis', or without Redis and for sealed entries the machine's, which may also differ from another machine's."
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_meaning_of_its_own() {
        let mut meanings: Vec<&str> = NoCacheReason::ALL.iter().map(|reason| meaning(*reason)).collect();
        assert!(!meanings.contains(&"See the documentation."));
        let all = meanings.len();
        meanings.sort_unstable();
        meanings.dedup();
        assert_eq!(meanings.len(), all);
    }
}
