package flashmla_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"flashmla"
)

// failure wants an error of that call, status and message, whole.
func failure(t *testing.T, err error, op string, status flashmla.Status, message string) {
	t.Helper()
	var e *flashmla.Error
	if !errors.As(err, &e) {
		t.Errorf("%s: %v is no *Error", op, err)
		return
	}
	if e.Op != op || e.Status != status || !errors.Is(err, status) || !strings.Contains(e.Message, message) {
		t.Errorf("%s: %v, want %s with %q", op, err, status, message)
	}
	if e.Category() != status.Category() || !errors.Is(err, status.Category()) {
		t.Errorf("%s: category %v", op, e.Category())
	}
	if want := "flashmla: " + op + ": " + e.Message + " (" + status.String() + ")"; err.Error() != want {
		t.Errorf("%q, want %q", err.Error(), want)
	}
}

func TestWrongArguments(t *testing.T) {
	ctx := open(t, flashmla.CPU, nil)
	d := newDecode(2, 20, 3)
	defer d.free()
	failure(t, ctx.DenseDecode(&d.params, &d.plan, 0), "DenseDecode", flashmla.ErrPlanMismatch, "plan.fingerprint = 0")
	if d.plan.Made() {
		t.Error("the plan was not made yet")
	}
	if err := ctx.DenseDecodePlan(&d.params, &d.plan, 0); err != nil {
		t.Fatal(err)
	}
	if !d.plan.Made() {
		t.Error("the plan was made")
	}
	type params = flashmla.DenseDecodeParams
	for _, c := range []struct {
		change  func(p *params)
		status  flashmla.Status
		message string
	}{
		{func(p *params) { p.Q.Data = 0 }, flashmla.ErrNullPointer, "q.data = NULL: must point to memory"},
		{func(p *params) { p.Out.Data = 0 }, flashmla.ErrNullPointer, "out.data = NULL"},
		{func(p *params) { p.Q.Data += 2 }, flashmla.ErrMisaligned, "must be a multiple of 16 bytes"},
		{func(p *params) { p.Dtype = 9 }, flashmla.ErrUnknownEnum, "dtype = 9"},
		{func(p *params) { p.Flags |= 64 }, flashmla.ErrUnknownEnum, "flags = 0x40"},
		{func(p *params) { p.HKV = 3 }, flashmla.ErrInvalidShape, "h_q = 4: must be a multiple of h_kv = 3"},
		{func(p *params) { p.B = -1 }, flashmla.ErrInvalidShape, "b = -1"},
		{func(p *params) { p.Q.Strides = [4]int64{2304, 575, 576, 1} }, flashmla.ErrInvalidStride,
			"q.strides[1] = 575: must be a multiple of 8 elements"},
		{func(p *params) { p.MaxBlocksPerSeq++ }, flashmla.ErrPlanMismatch, "the plan was made for other"},
	} {
		p := d.params
		c.change(&p)
		failure(t, ctx.DenseDecode(&p, &d.plan, 0), "DenseDecode", c.status, c.message)
		d.untouched(t)
	}
	failure(t, ctx.DenseDecode(&d.params, &d.plan, 42), "DenseDecode", flashmla.ErrInvalidStream, "must be NULL")
	failure(t, ctx.DenseDecode(&d.params, nil, 0), "DenseDecode", flashmla.ErrNullPointer, "plan = NULL")
	failure(t, ctx.DenseDecodePlan(&d.params, nil, 0), "DenseDecodePlan", flashmla.ErrNullPointer, "plan = NULL")
	// Parameters that nobody filled, and none.
	for _, p := range []*params{{}, nil} {
		status, message := flashmla.ErrInvalidShape, "h_q = 0"
		if p == nil {
			status, message = flashmla.ErrNullPointer, "params = NULL"
		}
		_, err := ctx.DenseDecodeQuery(p)
		failure(t, err, "DenseDecodeQuery", status, message)
		_, err = ctx.DenseDecodePlanSize(p)
		failure(t, err, "DenseDecodePlanSize", status, message)
		_, err = ctx.DenseDecodeWorkspaceSize(p)
		failure(t, err, "DenseDecodeWorkspaceSize", status, message)
		plan := d.plan
		failure(t, ctx.DenseDecodePlan(p, &plan, 0), "DenseDecodePlan", status, message)
		failure(t, ctx.DenseDecode(p, &plan, 0), "DenseDecode", status, message)
	}
	d.untouched(t)
	// The plan is the one that was made, after all that.
	if err := ctx.DenseDecode(&d.params, &d.plan, 0); err != nil {
		t.Fatal(err)
	}
	d.right(t, "after the errors")
}

func TestWrongSparsePrefill(t *testing.T) {
	ctx := open(t, flashmla.CPU, nil)
	good := flashmla.SparsePrefillParams{SQ: 1, HQ: 4, SKV: 8, DQK: 576, TopK: 2}
	for _, c := range []struct {
		change  func(p *flashmla.SparsePrefillParams)
		status  flashmla.Status
		message string
	}{
		{func(p *flashmla.SparsePrefillParams) {}, flashmla.ErrNullPointer, "q.data = NULL"},
		{func(p *flashmla.SparsePrefillParams) { p.DQK = 100 }, flashmla.ErrInvalidShape, "d_qk = 100"},
		{func(p *flashmla.SparsePrefillParams) { p.Flags = flashmla.Causal }, flashmla.ErrUnknownEnum, "flags = 0x1"},
	} {
		p := good
		c.change(&p)
		failure(t, ctx.SparsePrefill(&p, 0), "SparsePrefill", c.status, c.message)
	}
	failure(t, ctx.SparsePrefill(nil, 0), "SparsePrefill", flashmla.ErrNullPointer, "params = NULL")
	_, err := ctx.SparsePrefillQuery(nil)
	failure(t, err, "SparsePrefillQuery", flashmla.ErrNullPointer, "params = NULL")
	_, err = ctx.SparsePrefillWorkspaceSize(nil)
	failure(t, err, "SparsePrefillWorkspaceSize", flashmla.ErrNullPointer, "params = NULL")
}

func TestStatus(t *testing.T) {
	illegalAddress := flashmla.ErrCUDA + 700
	wrapped := fmt.Errorf("layer 7: %w", &flashmla.Error{Op: "DenseDecode", Status: illegalAddress})
	for _, target := range []error{illegalAddress, flashmla.ErrCUDA, flashmla.CUDAError} {
		if !errors.Is(wrapped, target) {
			t.Errorf("%v is not %v", wrapped, target)
		}
	}
	for _, target := range []error{flashmla.ErrCUDA + 701, flashmla.ErrInternal, flashmla.ArgumentError, flashmla.ErrClosed} {
		if errors.Is(wrapped, target) {
			t.Errorf("%v is %v", wrapped, target)
		}
	}
	var status flashmla.Status
	if !errors.As(wrapped, &status) || status.CUDAResult() != 700 || flashmla.ErrInternal.CUDAResult() != 0 {
		t.Errorf("%v carries %d", wrapped, status.CUDAResult())
	}
	for status, name := range map[flashmla.Status]string{
		flashmla.Success: "FLASHMLA_SUCCESS", flashmla.ErrMisaligned: "FLASHMLA_ERROR_MISALIGNED",
		123456: "FLASHMLA_ERROR_UNKNOWN",
	} {
		if status.String() != name || status.Error() != name {
			t.Errorf("%d is called %s", int32(status), status)
		}
	}
	for category, status := range map[flashmla.Category]flashmla.Status{
		flashmla.NoError: flashmla.Success, flashmla.ArgumentError: flashmla.ErrInvalidStream,
		flashmla.UnsupportedError: flashmla.ErrUnsupported, flashmla.EnvironmentError: flashmla.ErrNoDriver,
		flashmla.CUDAError: flashmla.ErrCUDA, flashmla.InternalError: flashmla.ErrPanic, 123: 123456,
	} {
		if status.Category() != category || category.Error() != category.String() || category.String() == "" {
			t.Errorf("%s is of category %s", status, status.Category())
		}
	}
}
