//! The control protocol's bytes: one length, one prost message, both ways. Lengths are checked before memory.

use std::io;

use cairn_proto::message::{self, CONTROL_MAX, ControlAnswer, ControlRequest, HEAD_RECORD_MAX};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{StreamProtocol, request_response};
use prost::Message;

/// Most bytes of a question: a head record to keep is the longest.
const REQUEST_MAX: usize = HEAD_RECORD_MAX + 64;

/// Codec of the control protocol.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ControlCodec;

async fn read<M: Message + Default, R: AsyncRead + Unpin>(io: &mut R, limit: usize) -> io::Result<M> {
    let mut length = [0u8; 4];
    io.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length) as usize;
    let bad = |e: cairn_proto::DecodeError| io::Error::new(io::ErrorKind::InvalidData, e);
    if length > limit {
        return Err(bad(cairn_proto::DecodeError::TooLarge { what: "control message", limit, found: length }));
    }
    let mut bytes = vec![0u8; length];
    io.read_exact(&mut bytes).await?;
    message::decode(&bytes, "control message").map_err(bad)
}

async fn write<W: AsyncWrite + Unpin>(io: &mut W, message: &impl Message) -> io::Result<()> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    io.write_all(&bytes).await?;
    io.close().await
}

impl request_response::Codec for ControlCodec {
    type Protocol = StreamProtocol;
    type Request = ControlRequest;
    type Response = ControlAnswer;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<ControlRequest>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, REQUEST_MAX).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<ControlAnswer>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, CONTROL_MAX).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: ControlRequest) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, answer: ControlAnswer) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &answer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::message::control_request::Ask;
    use futures::{FutureExt as _, io::Cursor};

    #[test]
    fn the_largest_legal_answer_gets_through() {
        use cairn_proto::{
            message::{ADVERT_MAX, ADVERTS_PER_ANSWER_MAX},
            signed::SignedBytes,
        };
        let advert = SignedBytes { body: vec![7; ADVERT_MAX], signer: vec![8; 32], signature: vec![9; 64] };
        let answer = ControlAnswer { adverts: vec![advert; ADVERTS_PER_ANSWER_MAX], ..ControlAnswer::default() };
        let mut bytes = Vec::new();
        write(&mut bytes, &answer).now_or_never().expect("ready").expect("written");
        let back = read::<ControlAnswer, _>(&mut Cursor::new(&bytes), CONTROL_MAX).now_or_never().expect("ready");
        assert_eq!(back.expect("fits"), answer);
    }

    #[test]
    fn messages_round_trip_and_a_long_length_takes_no_memory() {
        let request = ControlRequest { ask: Some(Ask::Adverts(7)) };
        let mut bytes = Vec::new();
        write(&mut bytes, &request).now_or_never().expect("ready").expect("written");
        let back: ControlRequest =
            read(&mut Cursor::new(&bytes), REQUEST_MAX).now_or_never().expect("ready").expect("read");
        assert_eq!(back, request);

        let hostile = u32::MAX.to_le_bytes();
        let refused = read::<ControlRequest, _>(&mut Cursor::new(hostile), REQUEST_MAX).now_or_never();
        assert!(refused.expect("ready").is_err());
    }
}
