#include "worker/job_thread.h"

#include <string.h>

static void *work(void *arg) {
  let__job_thread *h = arg;
  pthread_mutex_lock(&h->lock);
  for (;;) {
    while (!h->fn && !h->quit) pthread_cond_wait(&h->turn, &h->lock);
    if (!h->fn) break;
    void (*fn)(void *) = h->fn;
    pthread_mutex_unlock(&h->lock);
    fn(h->arg);
    pthread_mutex_lock(&h->lock);
    h->fn = NULL;
    pthread_cond_broadcast(&h->turn);
  }
  pthread_mutex_unlock(&h->lock);
  return NULL;
}

let_err let__job_thread_start(let__job_thread *h, let_error *e) {
  if (h->started) return LET_OK;
  pthread_mutex_init(&h->lock, NULL);
  pthread_cond_init(&h->turn, NULL);
  int r = pthread_create(&h->thread, NULL, work, h);
  if (!r) {
    h->started = true;
    return LET_OK;
  }
  pthread_mutex_destroy(&h->lock);
  pthread_cond_destroy(&h->turn);
  return let_fail(e, LET_ERR_NOMEM, "cannot start a thread: %s", strerror(r));
}

void let__job_thread_wait(let__job_thread *h) {
  pthread_mutex_lock(&h->lock);
  while (h->fn) pthread_cond_wait(&h->turn, &h->lock);
  pthread_mutex_unlock(&h->lock);
}

void let__job_thread_run(let__job_thread *h, void (*fn)(void *), void *arg) {
  let__job_thread_wait(h);
  pthread_mutex_lock(&h->lock);
  h->fn = fn;
  h->arg = arg;
  pthread_cond_broadcast(&h->turn);
  pthread_mutex_unlock(&h->lock);
}

void let__job_thread_stop(let__job_thread *h) {
  if (!h->started) return;
  pthread_mutex_lock(&h->lock);
  h->quit = true;
  pthread_cond_broadcast(&h->turn);
  pthread_mutex_unlock(&h->lock);
  pthread_join(h->thread, NULL);
  pthread_mutex_destroy(&h->lock);
  pthread_cond_destroy(&h->turn);
  *h = (let__job_thread){0};
}
