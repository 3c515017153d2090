package main

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"flashmla"

	"examples/common"
)

const (
	layers   = 2
	heads    = 16
	pageSize = 64
	numPages = 96
	maxPages = 4 // of a session
	maxBatch = 8
)

var (
	ErrServerClosed = errors.New("the server is closed")
	ErrNoPages      = errors.New("no pages are free, try later")
	ErrTooLong      = errors.New("the session is too long")
	ErrBadToken     = errors.New("a token has KV rows and a query for every layer")
)

// A Token is what a model gives a step of one session.
type Token struct {
	KV [layers][]uint16 // rows of 576 to append to the cache: the token's, at first those of the prompt before it
	Q  [layers][]uint16 // [heads, 576]
}

// An Answer is its attention.
type Answer struct {
	Out [layers][]uint16  // [heads, 512]
	LSE [layers][]float32 // [heads]
}

// A Server owns what all goroutines share: the Context, which any number of them may use, and the pages of a cache.
type Server struct {
	context *flashmla.Context
	device  common.Device
	cache   [layers]flashmla.DevicePtr // [numPages, pageSize, 1, 576]
	workers []*worker
	running sync.WaitGroup

	queue   chan *job
	closing chan struct{} // closed by Close
	close   func() error

	mutex sync.Mutex
	pages []int32 // free
}

// A job is one call of Decode on its way.
type job struct {
	context context.Context
	session *Session
	token   *Token
	answer  Answer
	done    chan error
}

// NewServer starts workers. It takes the GPU where there is one.
func NewServer(workers int) (*Server, error) {
	// The CUDA driver's calls for memory look at the thread; those of flashmla don't.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := &Server{device: common.Open(), queue: make(chan *job), closing: make(chan struct{})}
	var err error
	if s.context, err = flashmla.Open(s.device.Ordinal(), nil); err != nil {
		return nil, err
	}
	for l := range layers {
		s.cache[l] = s.device.Alloc(numPages * pageSize * common.DQK * 2)
	}
	for page := range int32(numPages) {
		s.pages = append(s.pages, page)
	}
	ready := make(chan error)
	for range workers {
		w := &worker{server: s}
		s.workers = append(s.workers, w)
		s.running.Add(1)
		go w.run(ready)
	}
	for range workers {
		if e := <-ready; e != nil {
			err = e
		}
	}
	s.close = sync.OnceValue(func() error {
		close(s.closing)
		s.running.Wait() // for the batches that have begun
		return s.context.Close()
	})
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// Close finishes what has begun, refuses what waits, and frees the context. Again and again is fine.
func (s *Server) Close() error { return s.close() }

// FreePages is how many pages no session has.
func (s *Server) FreePages() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.pages)
}

// A Session is a sequence whose KV rows are cached. It is for one goroutine at a time.
type Session struct {
	server *Server
	tokens int
	pages  []int32 // the same in every layer
}

// Open begins a session, with nothing in it.
func (s *Server) Open() *Session { return &Session{server: s} }

// Close gives the pages back.
func (c *Session) Close() {
	c.server.mutex.Lock()
	defer c.server.mutex.Unlock()
	c.server.pages = append(c.server.pages, c.pages...)
	c.pages, c.tokens = nil, 0
}

// grow takes the pages that so many tokens need.
func (c *Session) grow(tokens int) error {
	need := (tokens + pageSize - 1) / pageSize
	if need > maxPages {
		return ErrTooLong
	}
	c.server.mutex.Lock()
	defer c.server.mutex.Unlock()
	more := need - len(c.pages)
	if more > len(c.server.pages) {
		return ErrNoPages
	}
	if more > 0 {
		left := len(c.server.pages) - more
		c.pages = append(c.pages, c.server.pages[left:]...)
		c.server.pages = c.server.pages[:left]
	}
	return nil
}

// Decode appends the token's rows and attends to all that is cached then. It waits for a worker to have room for it; if
// ctx ends before, the session is as it was. What was wrong with one call is told to its caller alone.
func (c *Session) Decode(ctx context.Context, token *Token) (*Answer, error) {
	rows := len(token.KV[0]) / common.DQK
	for l := range layers {
		if rows < 1 || len(token.KV[l]) != rows*common.DQK || len(token.Q[l]) != heads*common.DQK {
			return nil, ErrBadToken
		}
	}
	if err := c.grow(c.tokens + rows); err != nil {
		return nil, err
	}
	j := &job{context: ctx, session: c, token: token, done: make(chan error, 1)}
	select {
	case c.server.queue <- j:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.server.closing:
		return nil, ErrServerClosed
	}
	// A worker has it, and with it the token's memory: this is not to be abandoned now.
	if err := <-j.done; err != nil {
		return nil, err
	}
	c.tokens += rows
	return &j.answer, nil
}
