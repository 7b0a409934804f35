package perdure

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	pb "github.com/perdure/perdure-go/gen/perdure/v1"
)

const (
	encodingJSON   = "json/plain"
	encodingBinary = "binary/plain"
	encodingNull   = "binary/null"
	inlineBytesMax = 1 << 20 // of all values of one call together; more travel as blobs
	aroundValue    = 256     // bytes of a message around a value, or of a reference to a blob
)

// room is the number of bytes that values of one call may still have inline.
type room int

func newRoom() *room {
	all := room(inlineBytesMax)
	return &all
}

// take tells whether there is room for so many bytes, and uses it.
func (r *room) take(size int) bool {
	*r -= aroundValue
	if size > int(*r) {
		return false
	}
	*r -= room(size)
	return true
}

// EncodingError says that a value exists but cannot be read from Go.
type EncodingError struct{ Encoding string }

func (e *EncodingError) Error() string {
	if strings.HasPrefix(e.Encoding, "python/pickle") {
		return fmt.Sprintf("perdure: the value is %s, which only Python reads: the function has to declare its result type, "+
			"one that JSON can hold", e.Encoding)
	}
	return fmt.Sprintf("perdure: the value has the encoding %q, which this client does not read", e.Encoding)
}

// Bytes is a field of a result that is `bytes` in Python. JSON has them as base64, in either alphabet.
type Bytes []byte

// UnmarshalJSON reads base64.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
	found, err := base64.RawStdEncoding.DecodeString(text)
	*b = found
	return err
}

// payload is a value as it travels: bytes and blobs as they are, all else as JSON. One for which there is no room is
// uploaded.
func (c *Client) payload(ctx context.Context, value any, inline *room) (*pb.Payload, error) {
	encoding := encodingBinary
	var data []byte
	switch value := value.(type) {
	case BlobRef:
		return &pb.Payload{Encoding: encoding, Body: &pb.Payload_Blob{Blob: value.message()}}, nil
	case []byte:
		data = value
	default:
		var err error
		if data, err = json.Marshal(value); err != nil {
			return nil, fmt.Errorf("perdure: %w", err)
		}
		encoding = encodingJSON
	}
	if inline.take(len(data)) {
		return &pb.Payload{Encoding: encoding, Body: &pb.Payload_Data{Data: data}}, nil
	}
	blob, err := c.Upload(ctx, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return &pb.Payload{Encoding: encoding, Body: &pb.Payload_Blob{Blob: blob.message()}}, nil
}

// decode reads a value into what `out` points to; a nil `out` skips it.
func (c *Client) decode(ctx context.Context, payload *pb.Payload, out any) error {
	if out == nil {
		return nil
	}
	encoding := payload.GetEncoding()
	if len(payload.GetCodecs()) > 0 {
		return &EncodingError{strings.Join(append([]string{encoding}, payload.GetCodecs()...), "+")}
	}
	if encoding != encodingJSON && encoding != encodingBinary && encoding != encodingNull {
		return &EncodingError{encoding}
	}
	data := payload.GetData()
	if blob := payload.GetBlob(); blob != nil {
		var whole bytes.Buffer
		whole.Grow(int(blob.GetSizeBytes()))
		if err := c.Download(ctx, blobFrom(blob), &whole); err != nil {
			return err
		}
		data = whole.Bytes()
	}
	raw, isBytes := out.(*[]byte)
	switch {
	case encoding == encodingNull:
		data = []byte("null")
	case encoding == encodingBinary && isBytes:
		*raw = data
		return nil
	case encoding == encodingBinary:
		return fmt.Errorf("perdure: the value is bytes, so the result needs a *[]byte, not %T", out)
	case isBytes:
		out = (*Bytes)(raw)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("perdure: the value does not fit %T: %w", out, err)
	}
	return nil
}
