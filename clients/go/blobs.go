package perdure

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	pb "github.com/perdure/perdure-go/gen/perdure/v1"
)

const chunkBytes = 512 << 10

// BlobRef names stored bytes by their content. As an argument of a call in a graph it stands for these bytes.
type BlobRef struct {
	SHA256 string // hexadecimal
	Size   int64
}

func (b BlobRef) message() *pb.BlobRef { return &pb.BlobRef{Sha256: b.SHA256, SizeBytes: b.Size} }

func blobFrom(m *pb.BlobRef) BlobRef { return BlobRef{m.GetSha256(), m.GetSizeBytes()} }

// Upload stores all that the reader has. The service wants the size and the hash before the bytes, so the bytes are read
// twice; those of a reader that cannot seek are kept in memory. A blob that no workflow uses is removed after some time.
func (c *Client) Upload(ctx context.Context, reader io.Reader) (BlobRef, error) {
	content, ok := reader.(io.ReadSeeker)
	if !ok {
		whole, err := io.ReadAll(reader)
		if err != nil {
			return BlobRef{}, err
		}
		content = bytes.NewReader(whole)
	}
	start, err := content.Seek(0, io.SeekCurrent)
	if err != nil {
		return BlobRef{}, err
	}
	digest := sha256.New()
	size, err := io.Copy(digest, content)
	if err != nil {
		return BlobRef{}, err
	}
	blob := BlobRef{hex.EncodeToString(digest.Sum(nil)), size}
	err = c.patiently(ctx, func(*absence) error {
		if _, err := content.Seek(start, io.SeekStart); err != nil {
			return err
		}
		return c.upload(ctx, blob, io.LimitReader(content, size))
	})
	return blob, err
}

func (c *Client) upload(ctx context.Context, blob BlobRef, content io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream if reading fails
	stream, err := c.blobs.UploadBlob(ctx)
	if err != nil {
		return err
	}
	header := &pb.UploadBlobHeader{Namespace: c.namespace, SizeBytes: blob.Size, Sha256: blob.SHA256}
	err = stream.Send(&pb.UploadBlobRequest{Kind: &pb.UploadBlobRequest_Header{Header: header}})
	buffer := make([]byte, chunkBytes)
	for offset := int64(0); err == nil && offset < blob.Size; {
		n, readErr := io.ReadFull(content, buffer[:min(chunkBytes, blob.Size-offset)])
		if readErr != nil {
			return fmt.Errorf("perdure: the content changed while it was uploaded: %w", readErr)
		}
		chunk := &pb.BlobChunk{Offset: offset, Data: buffer[:n]}
		err = stream.Send(&pb.UploadBlobRequest{Kind: &pb.UploadBlobRequest_Chunk{Chunk: chunk}})
		offset += int64(n)
	}
	if err != nil && err != io.EOF {
		return err
	}
	// io.EOF: the service has answered before it read all. It does so if it refuses the blob, or has it already.
	_, err = stream.CloseAndRecv()
	return err
}

// Download writes the bytes of a blob. It goes on where it stopped if the connection breaks. What was written before an
// error is not verified.
func (c *Client) Download(ctx context.Context, blob BlobRef, writer io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream if writing fails
	digest := sha256.New()
	offset := int64(0)
	err := c.patiently(ctx, func(away *absence) error {
		stream, err := c.blobs.DownloadBlob(ctx, &pb.DownloadBlobRequest{
			Namespace: c.namespace, Sha256: blob.SHA256, Offset: offset, ChunkBytes: chunkBytes,
		})
		if err != nil {
			return err
		}
		for {
			answer, err := stream.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			away.end()
			data := answer.GetChunk().GetData()
			if _, err := io.MultiWriter(writer, digest).Write(data); err != nil {
				return err
			}
			offset += int64(len(data))
		}
	})
	if err == nil && hex.EncodeToString(digest.Sum(nil)) != blob.SHA256 {
		return errors.New("perdure: what was downloaded has another hash than the blob")
	}
	return err
}
