//! Reads a JSON body whole, within bounds of size and time.

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::{ApiError, Params};
use crate::call::{Join, UploadError};

/// Reads a body to its end. One that comes in one piece is not copied.
///
/// # Errors
/// [`ApiError::Encoded`], [`ApiError::Upload`], [`ApiError::Overdue`].
pub(super) async fn read<B>(
    headers: &HeaderMap,
    mut body: B,
    params: Params,
) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
{
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity")
    {
        return Err(ApiError::Encoded);
    }
    let too_large = UploadError::TooLarge {
        limit: params.max_body,
    };
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > params.max_body) {
        return Err(too_large.into());
    }
    let overdue = Instant::now() + params.body_timeout;
    let mut whole = Join::new(params.max_body);
    loop {
        let idle = Instant::now() + params.body_idle_timeout;
        let frame = match timeout_at(idle.min(overdue), body.frame()).await {
            Ok(None) => return Ok(whole.finish()),
            Ok(Some(frame)) => frame.map_err(|_| UploadError::Broken)?,
            Err(_) if idle < overdue => {
                return Err(UploadError::Stalled {
                    limit: params.body_idle_timeout,
                }
                .into());
            }
            Err(_) => {
                return Err(ApiError::Overdue {
                    limit: params.body_timeout,
                });
            }
        };
        whole
            .push(frame.into_data().unwrap_or_default())
            .map_err(|_| too_large)?;
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::super::scripted::{PARAMS, pieces};
    use super::*;

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let bytes = Bytes::from_static(b"{\"a\":1}");
        let whole = read(&HeaderMap::new(), Full::new(bytes.clone()), PARAMS)
            .await
            .unwrap();
        assert_eq!(whole.as_ptr(), bytes.as_ptr());
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_are_joined() {
        let body = pieces(vec![(1, "{\"a\""), (1, ":"), (9, "1}")]);
        assert_eq!(
            read(&HeaderMap::new(), body, PARAMS).await.unwrap(),
            "{\"a\":1}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_run_out_of_time() {
        let stalled = read(&HeaderMap::new(), pieces(vec![(1, "{"), (11, "}")]), PARAMS).await;
        assert!(matches!(
            stalled,
            Err(ApiError::Upload(UploadError::Stalled { .. }))
        ));
        let dripping = pieces(vec![(9, "{"), (9, " "), (9, " "), (9, "}")]);
        assert!(matches!(
            read(&HeaderMap::new(), dripping, PARAMS).await,
            Err(ApiError::Overdue { .. })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_are_refused_announced_or_not() {
        let announced = Full::new(Bytes::from_static(b"12345678901234567"));
        let too_large = |result| {
            matches!(
                result,
                Err(ApiError::Upload(UploadError::TooLarge { limit: 16 }))
            )
        };
        assert!(too_large(read(&HeaderMap::new(), announced, PARAMS).await));
        let unannounced = pieces(vec![(0, "123456789"), (0, "123456789")]);
        assert!(too_large(
            read(&HeaderMap::new(), unannounced, PARAMS).await
        ));
    }
}
