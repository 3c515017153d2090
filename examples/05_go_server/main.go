// A server in Go that decodes from several goroutines: clients open sessions and ask for one token after the other, each
// from a goroutine of its own; workers, each with a stream, take what waits and run it as one batch.
//
// Teaches: package flashmla; one Context for all goroutines; what belongs to a worker (stream, plan, workspace, batch) and
// what to all (the paged cache); buffers made once, from maxima; errors and cancellation that reach the caller they belong
// to; closing while requests are on their way.
// Checks every row against plain C, and that no page is lost.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"examples/common"
)

const (
	clients = 24
	wanted  = 12 // tokens of a client
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	server, err := NewServer(3)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	var tokens, wrong, hungUp atomic.Int64
	errs := make([]error, clients)
	for id := range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			n, w, err := client(server, id)
			tokens.Add(int64(n))
			wrong.Add(int64(w))
			if errors.Is(err, context.Canceled) {
				hungUp.Add(1)
				err = nil
			}
			errs[id] = err
		}()
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	free := server.FreePages()
	if err := server.Close(); err != nil {
		return err
	}
	// Closing again does nothing; asking a closed server is an error.
	if err := server.Close(); err != nil {
		return err
	}
	if _, _, err := client(server, clients); !errors.Is(err, ErrServerClosed) {
		return fmt.Errorf("a closed server says: %v", err)
	}
	for i, w := range server.workers {
		fmt.Printf("worker %d: %d tokens in %d batches\n", i, w.tokens, w.batches)
	}
	fmt.Printf("%d clients: %d tokens of %d layers, %d hung up; %d of %d pages free\n", clients, tokens.Load(), layers,
		hungUp.Load(), free, numPages)
	switch {
	case wrong.Load() != 0:
		return fmt.Errorf("%d rows are not what plain C computes", wrong.Load())
	case free != numPages:
		return errors.New("pages were lost")
	case hungUp.Load() != 1 || tokens.Load() != (clients-1)*wanted+wanted/2:
		return errors.New("not the traffic that this program is about")
	}
	fmt.Println("check: every row as plain C computes it")
	return nil
}

// client generates tokens after a prompt of its own length, and checks one head of each; client 7 hangs up halfway.
func client(server *Server, id int) (tokens, wrong int, err error) {
	ctx, hangUp := context.WithCancel(context.Background())
	defer hangUp()
	session := server.Open()
	defer session.Close()

	// What this client has cached, for the check.
	var rows [layers][]uint16
	seed := uint64(id)<<32 + 1
	row := func(n int) []uint16 {
		values := make([]uint16, n*common.DQK)
		common.RandomBF16(values, seed)
		seed++
		return values
	}
	prompt := (id * 37) % 150
	for step := range wanted {
		if id == 7 && step == wanted/2 {
			hangUp()
		}
		// In the place of a model: new KV rows, the first time those of the prompt too, and a query for each layer.
		var token Token
		for l := range layers {
			n := 1
			if step == 0 {
				n += prompt
			}
			token.KV[l], token.Q[l] = row(n), row(heads)
			rows[l] = append(rows[l], token.KV[l]...)
		}
		answer, err := session.Decode(ctx, &token)
		if err != nil {
			return tokens, wrong, err
		}
		tokens++
		for l := range layers {
			h := (step + id) % heads
			if !common.RowIsRight(fmt.Sprintf("client %d, step %d, layer %d, head %d", id, step, l, h),
				token.Q[l][h*common.DQK:(h+1)*common.DQK], rows[l], answer.Out[l][h*common.DV:(h+1)*common.DV], answer.LSE[l][h]) {
				wrong++
			}
		}
	}
	return tokens, wrong, nil
}
