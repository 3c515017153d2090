package main

import (
	"runtime"

	"flashmla"

	"examples/common"
)

// A worker runs one batch at a time on a stream of its own, in buffers for the greatest batch.
type worker struct {
	server          *Server
	device          common.Device
	plan            flashmla.Plan
	params          [layers]flashmla.DenseDecodeParams
	tokens, batches int

	// A batch on the host. Slices, not arrays: what is handed to C must not lie in an object that has pointers of Go.
	table, lens []int32
	q, out      [layers][]uint16
	lse         [layers][]float32
}

func (w *worker) run(ready chan<- error) {
	defer w.server.running.Done()
	// For the memory and copies of package common: the driver's calls are about the thread's device.
	runtime.LockOSThread()
	w.device = w.server.device.Share()
	defer w.device.Close()
	err := w.prepare()
	ready <- err
	if err != nil {
		return
	}
	for {
		// Whoever waits first, and with him whoever waits too.
		var batch []*job
		select {
		case j := <-w.server.queue:
			batch = append(batch, j)
		case <-w.server.closing:
			return
		}
		runtime.Gosched()
	more:
		for len(batch) < maxBatch {
			select {
			case j := <-w.server.queue:
				batch = append(batch, j)
			default:
				break more
			}
		}
		w.serve(batch)
	}
}

// prepare makes all buffers, from the maxima; no step allocates anything on the device.
func (w *worker) prepare() error {
	greatest := flashmla.DenseDecodeParams{
		B: maxBatch, SQ: 1, HQ: heads, HKV: 1, DQK: common.DQK,
		NumBlocks: numPages, PageBlockSize: pageSize, MaxBlocksPerSeq: maxPages,
	}
	workspace, err := w.server.context.DenseDecodeWorkspaceSize(&greatest)
	if err != nil {
		return err
	}
	if w.plan.Size, err = w.server.context.DenseDecodePlanSize(&greatest); err != nil {
		return err
	}
	d := w.device
	w.plan.Data = d.Alloc(w.plan.Size)
	greatest.Workspace, greatest.WorkspaceSize = d.Alloc(workspace), workspace // one layer runs after the other
	greatest.BlockTable.Data, greatest.CacheSeqlens.Data = d.Alloc(maxBatch*maxPages*4), d.Alloc(maxBatch*4)
	w.table, w.lens = make([]int32, maxBatch*maxPages), make([]int32, maxBatch)
	for l := range layers {
		w.q[l], w.out[l] = make([]uint16, maxBatch*heads*common.DQK), make([]uint16, maxBatch*heads*common.DV)
		w.lse[l] = make([]float32, maxBatch*heads)
		p := greatest
		p.KVCache.Data = w.server.cache[l]
		p.Q.Data, p.Out.Data = d.Alloc(uint64(2*len(w.q[l]))), d.Alloc(uint64(2*len(w.out[l])))
		p.LSE.Data = d.Alloc(uint64(4 * len(w.lse[l])))
		w.params[l] = p
	}
	return nil
}

// serve answers each of the batch, those who hung up meanwhile too.
func (w *worker) serve(batch []*job) {
	n := 0
	for _, j := range batch {
		if err := j.context.Err(); err != nil {
			j.done <- err
		} else {
			batch[n] = j
			n++
		}
	}
	batch = batch[:n]
	if n == 0 {
		return
	}
	err := w.step(batch)
	for _, j := range batch {
		j.done <- err
	}
	w.tokens += n
	w.batches++
}

func (w *worker) step(batch []*job) error {
	const qRow, outRow = heads * common.DQK, heads * common.DV
	for i, j := range batch {
		w.append(j)
		copy(w.table[i*maxPages:(i+1)*maxPages], j.session.pages)
		w.lens[i] = int32(j.session.tokens + len(j.token.KV[0])/common.DQK)
		for l := range layers {
			copy(w.q[l][i*qRow:], j.token.Q[l])
		}
	}
	n := len(batch)
	d, stream := w.device, w.device.Stream()
	common.Upload(d, w.params[0].BlockTable.Data, w.table[:n*maxPages])
	common.Upload(d, w.params[0].CacheSeqlens.Data, w.lens[:n])
	for l := range layers {
		w.params[l].B = int64(n)
		common.Upload(d, w.params[l].Q.Data, w.q[l][:n*qRow])
	}
	// One plan for all layers.
	if err := w.server.context.DenseDecodePlan(&w.params[0], &w.plan, stream); err != nil {
		return err
	}
	for l := range layers {
		if err := w.server.context.DenseDecode(&w.params[l], &w.plan, stream); err != nil {
			return err
		}
	}
	for l := range layers {
		common.Download(d, w.out[l][:n*outRow], w.params[l].Out.Data)
		common.Download(d, w.lse[l][:n*heads], w.params[l].LSE.Data)
		for i, j := range batch {
			j.answer.Out[l] = append([]uint16(nil), w.out[l][i*outRow:(i+1)*outRow]...)
			j.answer.LSE[l] = append([]float32(nil), w.lse[l][i*heads:(i+1)*heads]...)
		}
	}
	return nil
}

// append writes the token's rows into the session's pages, a page at a time. A model's own kernel would, on the stream.
func (w *worker) append(j *job) {
	for l := range layers {
		rows := j.token.KV[l]
		for at := j.session.tokens; len(rows) > 0; {
			slot := at % pageSize
			n := min(pageSize-slot, len(rows)/common.DQK)
			offset := (int(j.session.pages[at/pageSize])*pageSize + slot) * common.DQK * 2
			common.Upload(w.device, w.server.cache[l]+flashmla.DevicePtr(offset), rows[:n*common.DQK])
			rows = rows[n*common.DQK:]
			at += n
		}
	}
}
