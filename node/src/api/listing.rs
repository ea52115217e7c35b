//! Lists that may be longer than memory: made part by part, as fast as they are read.

use std::sync::Arc;

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::server::{Service, ShardPage, refuse};
use crate::failure::Failure;

/// An array of all shards. A failure after its beginning breaks the answer off, so that nobody takes a part for the whole.
pub(super) async fn shards(service: Arc<dyn Service>) -> Response {
    let first = match service.shards(None).await {
        Ok(first) => first,
        Err(failure) => return refuse(failure),
    };
    let rest = futures::stream::try_unfold((service, Some(first), true), |(service, page, is_first)| async move {
        let Some(page) = page else { return Ok::<_, Failure>(None) };
        let json = rows(&page, is_first);
        let next = match page.next {
            Some(place) => Some(service.shards(Some(place)).await?),
            None => None,
        };
        Ok(Some((json, (service, next, false))))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(rest)).into_response()
}

/// A page's part of the array.
fn rows(page: &ShardPage, is_first: bool) -> Bytes {
    let mut json = if is_first { b"[".to_vec() } else { Vec::new() };
    for (i, row) in page.rows.iter().enumerate() {
        if i > 0 || !is_first {
            json.push(b',');
        }
        // Values always serialise.
        json.extend(serde_json::to_vec(row).unwrap_or_default());
    }
    if page.next.is_none() {
        json.push(b']');
    }
    json.into()
}
