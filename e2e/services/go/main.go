// An ordinary Go service: asks the service at `next`, and hands on what it said. Its handler and its client have
// what otelhttp does to contexts and headers, with the same propagators; otelhttp itself is in no registry
// that everybody reaches.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"go.opentelemetry.io/otel/propagation"
)

var propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

// handler extracts the context of a request, as otelhttp.NewHandler does.
func handler(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		inner.ServeHTTP(w, r.WithContext(ctx))
	})
}

// transport injects the context of a request, as otelhttp.NewTransport does.
type transport struct{ inner http.RoundTripper }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	propagator.Inject(r.Context(), propagation.HeaderCarrier(r.Header))
	return t.inner.RoundTrip(r)
}

var client = http.Client{Transport: transport{http.DefaultTransport}}

func index(w http.ResponseWriter, r *http.Request) {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, r.URL.Query().Get("next"), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := client.Do(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	w.WriteHeader(answer.StatusCode)
	io.Copy(w, answer.Body)
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, handler(http.HandlerFunc(index))))
}
