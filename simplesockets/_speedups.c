/* What hotpath.py has in Python, for CPython on Linux: the short way of nearly all messages.

   Both are the same to their callers, and the tests run with either. Whatever is not the short way (more than fits, a
   socket that somebody replaced, the end of a stream, what went wrong) is left to the Python code: *_in_full().

   Four things make it cheaper, besides being compiled:
   - The system is asked directly, and never to wait, so that the interpreter need not be let go of each time: that,
     and to get it back, costs a lot, and much more where another thread waits for it.
   - Small reads go through one buffer, so that no room is made for the largest possible message each time.
   - No signal handler of Python's runs between reading and handing over, or inside sending.
   - Who only watches whether things go on (leader.py's stand-by) asks for the interpreter when they do not. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#define REVISION 1 /* see hotpath.py */
#define MOST_SENT 4096
#define MOST_READ 16384
#define TURNS 64 /* of so many calls in a row, … */
#define KEPT 48  /* … so many keep the interpreter */

static PyObject *more, *paused, *nothing, *done;            /* outcomes of a step */
static PyCFunction socket_recv, socket_send, socket_fileno; /* of Python's own sockets */
static char buffer[MOST_READ];                              /* used by who has the interpreter, and keeps it */
static char spare[MOST_READ];                               /* used by one who lets go of it, … */
static int spare_is_taken;                                  /* … until this is false again */

#define NAMES(NAME)                                                                                                    \
    NAME(_leader) NAME(_named) NAME(_not_parked) NAME(_not_read) NAME(_parked) NAME(_pulse) NAME(_send_in_full)        \
    NAME(_serve_odd) NAME(_step_in_full) NAME(_stepped) NAME(_told_full) NAME(_went_wrong) NAME(caught)                \
    NAME(client_mark) NAME(odd) NAME(on_receive) NAME(serving) NAME(step) NAME(total)
#define DECLARE(NAME) static PyObject *name_##NAME;
NAMES(DECLARE)

/* ------------------------------------------------------------------------------------------------- exceptions */

static PyObject *
take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

static void
raise_again(PyObject *failure) /* takes the reference */
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(failure);
#else
    PyErr_Restore(Py_NewRef(Py_TYPE(failure)), failure, PyException_GetTraceback(failure));
#endif
}

/* ---------------------------------------------------------------------------------------------------- sockets */

static int
descriptor_of(PyObject *method, PyCFunction wanted)
{
    /* Of the socket, if the method is this one of a socket's own; else -1. */
    if (method == NULL || !PyCFunction_Check(method) || PyCFunction_GET_FUNCTION(method) != wanted)
        return -1;
    PyObject *number = socket_fileno(PyCFunction_GET_SELF(method), NULL);
    if (number == NULL) {
        PyErr_Clear();
        return -1;
    }
    long descriptor = PyLong_AsLong(number);
    Py_DECREF(number);
    return (int)descriptor;
}

static int
keeps_interpreter(void)
{
    /* Who keeps it in one call after another keeps everybody else from running, since they get it by force only, after
       5 ms. To let go of it in a single call would be too short for them to wake up. */
    static unsigned turn;
    return turn++ % TURNS < KEPT;
}

static ssize_t
send_now(int descriptor, const char *data, Py_ssize_t size)
{
    if (keeps_interpreter())
        return send(descriptor, data, size, MSG_DONTWAIT);
    ssize_t sent;
    int failure;
    Py_BEGIN_ALLOW_THREADS
    sent = send(descriptor, data, size, MSG_DONTWAIT);
    failure = errno;
    Py_END_ALLOW_THREADS
    errno = failure;
    return sent;
}

static PyObject *
read_on(int descriptor, const char *start, Py_ssize_t size)
{
    /* The buffer is full: there is more, most likely. (An error is told once, and the next read has to hear of it.) */
    int waiting = 0;
    if (ioctl(descriptor, FIONREAD, &waiting) < 0 || waiting <= 0)
        return PyBytes_FromStringAndSize(start, MOST_READ);
    size = Py_MIN(size, MOST_READ + (Py_ssize_t)waiting);
    PyObject *data = PyBytes_FromStringAndSize(NULL, size);
    if (data == NULL)
        return NULL;
    char *rest = PyBytes_AS_STRING(data) + MOST_READ;
    memcpy(PyBytes_AS_STRING(data), start, MOST_READ);
    ssize_t got;
    Py_BEGIN_ALLOW_THREADS
    got = recv(descriptor, rest, size - MOST_READ, MSG_DONTWAIT);
    Py_END_ALLOW_THREADS
    _PyBytes_Resize(&data, MOST_READ + Py_MAX(got, 0));
    return data;
}

static PyObject *
taken_from(const char *start, ssize_t got, int descriptor, Py_ssize_t size)
{
    if (got == MOST_READ && size > MOST_READ)
        return read_on(descriptor, start, size);
    if (got >= 0)
        return PyBytes_FromStringAndSize(start, got);
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        PyErr_SetFromErrno(PyExc_OSError);
    return NULL;
}

static PyObject *
read_now(int descriptor, Py_ssize_t size)
{
    /* What is there; NULL with an exception set, or without one if there is nothing. */
    size_t most = Py_MIN(size, MOST_READ);
    if (keeps_interpreter() || spare_is_taken)
        return taken_from(buffer, recv(descriptor, buffer, most, MSG_DONTWAIT), descriptor, size);
    ssize_t got;
    int failure;
    spare_is_taken = 1;
    Py_BEGIN_ALLOW_THREADS
    got = recv(descriptor, spare, most, MSG_DONTWAIT);
    failure = errno;
    Py_END_ALLOW_THREADS
    errno = failure;
    PyObject *data = taken_from(spare, got, descriptor, size);
    spare_is_taken = 0;
    return data;
}

/* ------------------------------------------------------------------------------------------------------- Lock */

/* As threading.RLock, and to those in here it costs next to nothing. */

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    unsigned long owner; /* of the lock; changed by who has the interpreter, as the next one */
    unsigned long depth;
} Lock;

static PyTypeObject *lock_type;

static PY_TIMEOUT_T
in_microseconds(double seconds) /* -1, if it is for ever */
{
    return seconds < 0 ? -1 : (PY_TIMEOUT_T)(Py_MIN(seconds, INT_MAX) * 1e6);
}

static int
lock_take(Lock *self) /* without waiting; gives whether it could */
{
    unsigned long me = PyThread_get_thread_ident();
    if (self->depth > 0 && self->owner == me) {
        self->depth++;
        return 1;
    }
    if (self->depth > 0 || !PyThread_acquire_lock(self->lock, NOWAIT_LOCK))
        return 0;
    self->owner = me;
    self->depth = 1;
    return 1;
}

static void
lock_let_go(Lock *self)
{
    if (--self->depth == 0)
        PyThread_release_lock(self->lock);
}

static double
now(void) /* as time.perf_counter() */
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int
lock_wait(Lock *self, double timeout) /* 1 if it was taken, 0 if the time was over, -1 if a signal handler raised */
{
    double end = timeout < 0 ? 0 : now() + timeout;
    PyLockStatus status;
    do {
        PY_TIMEOUT_T microseconds = in_microseconds(timeout < 0 ? -1 : Py_MAX(end - now(), 0.0));
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(self->lock, microseconds, 1);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_INTR && PyErr_CheckSignals() < 0)
            return -1;
    } while (status == PY_LOCK_INTR);
    if (status != PY_LOCK_ACQUIRED)
        return 0;
    self->owner = PyThread_get_thread_ident();
    self->depth = 1;
    return 1;
}

static PyObject *
lock_acquire(Lock *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"blocking", "timeout", NULL};
    int blocking = 1;
    double timeout = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|pd:acquire", names, &blocking, &timeout))
        return NULL;
    if (!(timeout == -1 || (blocking && timeout >= 0 && timeout <= INT_MAX))) {
        PyErr_Format(PyExc_ValueError, "the timeout must be from 0 to %d seconds, and the lock waited for", INT_MAX);
        return NULL;
    }
    int taken = lock_take(self);
    if (!taken && blocking)
        taken = lock_wait(self, timeout);
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static int
lock_is_mine(Lock *self)
{
    return self->depth > 0 && self->owner == PyThread_get_thread_ident();
}

static PyObject *
lock_release(Lock *self, PyObject *Py_UNUSED(ignored))
{
    if (!lock_is_mine(self)) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
        return NULL;
    }
    lock_let_go(self);
    Py_RETURN_NONE;
}

static PyObject *
lock_enter(Lock *self, PyObject *Py_UNUSED(ignored))
{
    return lock_take(self) || lock_wait(self, -1) > 0 ? Py_NewRef(Py_True) : NULL;
}

static PyObject *
lock_exit(Lock *self, PyObject *Py_UNUSED(args))
{
    return lock_release(self, NULL);
}

static PyObject *
lock_is_owned(Lock *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(lock_is_mine(self));
}

/* For threading.Condition: to give it up altogether while waiting. */

static PyObject *
lock_release_save(Lock *self, PyObject *Py_UNUSED(ignored))
{
    unsigned long depth = self->depth;
    if (!lock_is_mine(self))
        return lock_release(self, NULL);
    self->depth = 1;
    lock_let_go(self);
    return PyLong_FromUnsignedLong(depth);
}

static PyObject *
lock_acquire_restore(Lock *self, PyObject *saved)
{
    unsigned long depth = PyLong_AsUnsignedLong(saved);
    if (depth == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (!PyThread_acquire_lock(self->lock, NOWAIT_LOCK)) {
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(self->lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS
    }
    self->owner = PyThread_get_thread_ident();
    self->depth = depth;
    Py_RETURN_NONE;
}

static PyObject *
lock_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Lock *self = (Lock *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->lock = PyThread_allocate_lock();
    if (self->lock == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void
lock_dealloc(Lock *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->lock != NULL) {
        if (self->depth > 0)
            PyThread_release_lock(self->lock);
        PyThread_free_lock(self->lock);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))lock_acquire, METH_VARARGS | METH_KEYWORDS, NULL},
    {"release", (PyCFunction)lock_release, METH_NOARGS, NULL},
    {"__enter__", (PyCFunction)lock_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)lock_exit, METH_VARARGS, NULL},
    {"_is_owned", (PyCFunction)lock_is_owned, METH_NOARGS, NULL},
    {"_release_save", (PyCFunction)lock_release_save, METH_NOARGS, NULL},
    {"_acquire_restore", (PyCFunction)lock_acquire_restore, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_new, lock_new}, {Py_tp_dealloc, lock_dealloc}, {Py_tp_methods, lock_methods}, {0, NULL},
};

static PyType_Spec lock_spec = {"simplesockets._speedups.Lock", sizeof(Lock), 0, Py_TPFLAGS_DEFAULT, lock_slots};

/* ----------------------------------------------------------------------------------------------------- Sender */

typedef struct {
    PyObject_HEAD
    PyObject *send, *lock;
    long long bytes_out, messages_out;
} Sender;

static PyObject *
sender_raise_named(Sender *self)
{
    PyObject *failure = take_exception();
    PyObject *shown = PyObject_CallMethodOneArg((PyObject *)self, name__named, failure);
    if (shown != NULL) {
        if (shown != failure)
            PyException_SetCause(shown, Py_NewRef(failure));
        raise_again(shown);
    }
    Py_DECREF(failure);
    return NULL;
}

static int
sender_send_locked(Sender *self, PyObject *data)
{
    /* Gives 0, or -1 with an exception set; 1 if nothing was done, since this is not the short way. */
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    int descriptor = descriptor_of(self->send, socket_send);
    if (descriptor < 0)
        return 1;
    ssize_t sent = send_now(descriptor, PyBytes_AS_STRING(data), size);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        sent = 0;
    }
    self->bytes_out += sent;
    if (sent < size) {
        PyObject *result = PyObject_CallMethod((PyObject *)self, "_send_rest", "Nn", PyMemoryView_FromObject(data),
                                               (Py_ssize_t)sent);
        if (result == NULL)
            return -1;
        Py_DECREF(result);
    }
    self->messages_out++;
    return 0;
}

static PyObject *
sender_send_all(Sender *self, PyObject *data)
{
    if (!PyBytes_CheckExact(data) || PyBytes_GET_SIZE(data) > MOST_SENT || self->lock == NULL ||
        !Py_IS_TYPE(self->lock, lock_type) || !lock_take((Lock *)self->lock))
        return PyObject_CallMethodOneArg((PyObject *)self, name__send_in_full, data);
    Lock *lock = (Lock *)Py_NewRef(self->lock);
    int outcome = sender_send_locked(self, data);
    if (lock_is_mine(lock)) /* locking.py's let_go(), in a signal handler, cannot tell whose it is */
        lock_let_go(lock);
    Py_DECREF(lock);
    if (outcome > 0)
        return PyObject_CallMethodOneArg((PyObject *)self, name__send_in_full, data);
    if (outcome < 0)
        return PyErr_ExceptionMatches(PyExc_OSError) ? sender_raise_named(self) : NULL;
    Py_RETURN_NONE;
}

static int
sender_traverse(Sender *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->send);
    Py_VISIT(self->lock);
    return 0;
}

static int
sender_clear(Sender *self)
{
    Py_CLEAR(self->send);
    Py_CLEAR(self->lock);
    return 0;
}

static void
sender_dealloc(Sender *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    sender_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef sender_members[] = {
    {"_send", T_OBJECT_EX, offsetof(Sender, send), 0, NULL},
    {"write_lock", T_OBJECT_EX, offsetof(Sender, lock), 0, NULL},
    {"bytes_out", T_LONGLONG, offsetof(Sender, bytes_out), 0, NULL},
    {"messages_out", T_LONGLONG, offsetof(Sender, messages_out), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef sender_methods[] = {
    {"send_all", (PyCFunction)sender_send_all, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sender_slots[] = {
    {Py_tp_members, sender_members}, {Py_tp_methods, sender_methods}, {Py_tp_traverse, sender_traverse},
    {Py_tp_clear, sender_clear},     {Py_tp_dealloc, sender_dealloc}, {0, NULL},
};

static PyType_Spec sender_spec = {
    "simplesockets._speedups.Sender", sizeof(Sender), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, sender_slots,
};

/* ---------------------------------------------------------------------------------------------------- Stepper */

typedef struct {
    PyObject_HEAD
    PyObject *inbox, *read, *deliver;
    Py_ssize_t read_size, brief;
    long long bytes_in, messages_in;
    double read_at;
    unsigned long served_by;
    int read_flags;
    char closing, reading;
} Stepper;

static PyObject *
stepper_read(Stepper *self)
{
    /* As read_now(). */
    int descriptor = self->read_flags == MSG_DONTWAIT ? descriptor_of(self->read, socket_recv) : -1;
    if (descriptor >= 0 && self->read_size > 0)
        return read_now(descriptor, self->read_size);
    if (self->read == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_read");
        return NULL;
    }
    PyObject *read = Py_NewRef(self->read);
    PyObject *data = PyObject_CallFunction(read, "ni", self->read_size, self->read_flags);
    Py_DECREF(read);
    return data;
}

static PyObject *
stepper_handle(Stepper *self, PyObject *name, PyObject *data)
{
    /* Call a method with what was read, if anything was, and with the exception that is set. */
    PyObject *failure = take_exception();
    PyObject *result = PyObject_CallMethodObjArgs((PyObject *)self, name, failure, data, NULL);
    Py_XDECREF(failure);
    return result;
}

static PyObject *
stepper_deliver(Stepper *self, PyObject *data)
{
    self->bytes_in += PyBytes_GET_SIZE(data);
    self->messages_in++;
    PyObject *deliver = Py_NewRef(self->deliver);
    PyObject *full = PyObject_CallOneArg(deliver, data);
    Py_DECREF(deliver);
    int pause = full == NULL ? -1 : PyObject_IsTrue(full);
    Py_XDECREF(full);
    PyObject *outcome = pause < 0 ? stepper_handle(self, name__went_wrong, data) : Py_NewRef(pause ? paused : more);
    self->served_by = 0;
    return outcome;
}

static PyObject *
stepper_step(Stepper *self, PyObject *Py_UNUSED(ignored))
{
    if (self->closing)
        return Py_NewRef(done);
    if (!self->reading || self->inbox == NULL || self->deliver == NULL || PyObject_Size(self->inbox) != 0)
        return PyObject_CallMethodNoArgs((PyObject *)self, name__step_in_full);
    PyObject *data = stepper_read(self);
    if (data == NULL) {
        if (!PyErr_Occurred())
            return Py_NewRef(nothing);
        return PyErr_ExceptionMatches(PyExc_OSError) ? stepper_handle(self, name__not_read, NULL) : NULL;
    }
    Py_ssize_t size = PyBytes_CheckExact(data) ? PyBytes_GET_SIZE(data) : 0;
    PyObject *outcome;
    /* Others may have run meanwhile, if the read waited. */
    if (0 < size && size < self->brief && !self->closing && self->reading && PyObject_Size(self->inbox) == 0) {
        self->read_at = now();
        self->served_by = PyThread_get_thread_ident();
        outcome = stepper_deliver(self, data);
    }
    else
        outcome = PyObject_CallMethodOneArg((PyObject *)self, name__step_in_full, data);
    Py_DECREF(data);
    return outcome;
}

static int
stepper_traverse(Stepper *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->inbox);
    Py_VISIT(self->read);
    Py_VISIT(self->deliver);
    return 0;
}

static int
stepper_clear(Stepper *self)
{
    Py_CLEAR(self->inbox);
    Py_CLEAR(self->read);
    Py_CLEAR(self->deliver);
    return 0;
}

static void
stepper_dealloc(Stepper *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    stepper_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef stepper_members[] = {
    {"_inbox", T_OBJECT_EX, offsetof(Stepper, inbox), 0, NULL},
    {"_read", T_OBJECT_EX, offsetof(Stepper, read), 0, NULL},
    {"_deliver", T_OBJECT_EX, offsetof(Stepper, deliver), 0, NULL},
    {"_read_size", T_PYSSIZET, offsetof(Stepper, read_size), 0, NULL},
    {"_read_flags", T_INT, offsetof(Stepper, read_flags), 0, NULL},
    {"_short", T_PYSSIZET, offsetof(Stepper, brief), 0, NULL},
    {"bytes_in", T_LONGLONG, offsetof(Stepper, bytes_in), 0, NULL},
    {"messages_in", T_LONGLONG, offsetof(Stepper, messages_in), 0, NULL},
    {"read_at", T_DOUBLE, offsetof(Stepper, read_at), 0, NULL},
    {"served_by", T_ULONG, offsetof(Stepper, served_by), 0, NULL},
    {"closing", T_BOOL, offsetof(Stepper, closing), 0, NULL},
    {"reading", T_BOOL, offsetof(Stepper, reading), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef stepper_methods[] = {
    {"step", (PyCFunction)stepper_step, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stepper_slots[] = {
    {Py_tp_members, stepper_members}, {Py_tp_methods, stepper_methods}, {Py_tp_traverse, stepper_traverse},
    {Py_tp_clear, stepper_clear},     {Py_tp_dealloc, stepper_dealloc}, {0, NULL},
};

static PyType_Spec stepper_spec = {
    "simplesockets._speedups.Stepper", sizeof(Stepper), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, stepper_slots,
};

/* --------------------------------------------------------------------------------------------------- Delivery */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *deliver; /* in full */
    PyObject *dispatch, *bound, *mailbox, *client, *address;
} Delivery;

static int
copies_are_kept(Delivery *self)
{
    PyObject *total = PyObject_GetAttr(self->mailbox, name_total), *mark = PyObject_GetAttr(self->mailbox, name_client_mark);
    PyObject *told = PyObject_GetAttr(self->dispatch, name__told_full);
    int room = total == NULL || mark == NULL ? -1 : PyObject_RichCompareBool(total, mark, Py_LT);
    if (room == 0)
        room = told != Py_True; /* it is still to be said that they are not */
    Py_XDECREF(total);
    Py_XDECREF(mark);
    Py_XDECREF(told);
    return room;
}

static PyObject *
delivery_receiver(Delivery *self) /* a new reference to what the short way calls; NULL if this is not the short way */
{
    PyObject *bound = PyDict_GetItemWithError(self->bound, name_on_receive); /* a tuple; see Dispatch.assign() */
    PyObject *receive = bound == NULL ? Py_None : PyTuple_GET_ITEM(bound, 2);
    if (receive == Py_None)
        return NULL;
    Py_INCREF(receive);
    if (copies_are_kept(self))
        Py_CLEAR(receive);
    return receive;
}

static PyObject *
delivery_call(Delivery *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    PyObject *receive = PyVectorcall_NARGS(nargsf) == 1 && names == NULL ? delivery_receiver(self) : NULL;
    if (receive == NULL) {
        PyErr_Clear();
        return PyObject_Vectorcall(self->deliver, args, nargsf, names);
    }
    PyObject *arguments[] = {NULL, self->client, self->address, args[0]};
    PyObject *result = PyObject_Vectorcall(receive, arguments + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(receive);
    if (result == NULL) {
        PyObject *failure = take_exception();
        result = PyObject_CallMethodObjArgs(self->dispatch, name_caught, failure, name_on_receive, NULL);
        Py_DECREF(failure);
    }
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    Py_RETURN_FALSE;
}

static int
delivery_traverse(Delivery *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->deliver);
    Py_VISIT(self->dispatch);
    Py_VISIT(self->bound);
    Py_VISIT(self->mailbox);
    Py_VISIT(self->client);
    Py_VISIT(self->address);
    return 0;
}

static int
delivery_clear(Delivery *self)
{
    Py_CLEAR(self->deliver);
    Py_CLEAR(self->dispatch);
    Py_CLEAR(self->bound);
    Py_CLEAR(self->mailbox);
    Py_CLEAR(self->client);
    Py_CLEAR(self->address);
    return 0;
}

static void
delivery_dealloc(Delivery *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    delivery_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
delivery_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *deliver, *dispatch, *client;
    if (!PyArg_ParseTuple(args, "OOO:Delivery", &deliver, &dispatch, &client))
        return NULL;
    Delivery *self = (Delivery *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = (vectorcallfunc)delivery_call;
    self->deliver = Py_NewRef(deliver);
    self->dispatch = Py_NewRef(dispatch);
    self->client = Py_NewRef(client);
    self->bound = PyObject_GetAttrString(dispatch, "_bound");
    self->mailbox = PyObject_GetAttrString(dispatch, "mailbox");
    self->address = PyObject_GetAttrString(client, "address");
    int good = self->bound != NULL && self->mailbox != NULL && self->address != NULL;
    if (good && !PyDict_CheckExact(self->bound)) {
        PyErr_SetString(PyExc_TypeError, "a dictionary of callbacks is needed");
        good = 0;
    }
    if (!good) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMemberDef delivery_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Delivery, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot delivery_slots[] = {
    {Py_tp_new, delivery_new},           {Py_tp_call, PyVectorcall_Call}, {Py_tp_members, delivery_members},
    {Py_tp_traverse, delivery_traverse}, {Py_tp_clear, delivery_clear},   {Py_tp_dealloc, delivery_dealloc},
    {0, NULL},
};

static PyType_Spec delivery_spec = {
    "simplesockets._speedups.Delivery", sizeof(Delivery), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, delivery_slots,
};

/* ------------------------------------------------------------------------------------------------------- Gate */

typedef struct {
    PyObject_HEAD
    long beats; /* changed by who has the interpreter, read by anybody */
} Pulse;

static PyMemberDef pulse_members[] = {
    {"beats", T_LONG, offsetof(Pulse, beats), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot pulse_slots[] = {{Py_tp_members, pulse_members}, {0, NULL}};

static PyType_Spec pulse_spec = {"simplesockets._speedups.Pulse", sizeof(Pulse), 0, Py_TPFLAGS_DEFAULT, pulse_slots};

static PyTypeObject *pulse_type;

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    char shut; /* locked, as far as who has the interpreter knows; to unlock it twice would be one time too many */
} Gate;

static PyObject *
gate_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Gate *self = (Gate *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->lock = PyThread_allocate_lock();
    if (self->lock == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    PyThread_acquire_lock(self->lock, NOWAIT_LOCK);
    self->shut = 1;
    return (PyObject *)self;
}

static void
gate_dealloc(Gate *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->lock != NULL) {
        if (self->shut)
            PyThread_release_lock(self->lock);
        PyThread_free_lock(self->lock);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyLockStatus
gate_wait(Gate *self, double seconds) /* without the interpreter */
{
    return PyThread_acquire_lock_timed(self->lock, in_microseconds(seconds), 0);
}

static PyObject *
gate_sleep(Gate *self, PyObject *args)
{
    double timeout = -1;
    if (!PyArg_ParseTuple(args, "|d:sleep", &timeout))
        return NULL;
    PyLockStatus status;
    Py_BEGIN_ALLOW_THREADS
    status = gate_wait(self, timeout);
    Py_END_ALLOW_THREADS
    self->shut |= status == PY_LOCK_ACQUIRED;
    return PyBool_FromLong(status == PY_LOCK_ACQUIRED);
}

static PyObject *
gate_watch(Gate *self, PyObject *args)
{
    double seconds;
    Pulse *pulse;
    if (!PyArg_ParseTuple(args, "O!d:watch", pulse_type, &pulse, &seconds))
        return NULL;
    PyLockStatus status;
    long before;
    Py_BEGIN_ALLOW_THREADS
    do {
        before = __atomic_load_n(&pulse->beats, __ATOMIC_RELAXED);
        status = gate_wait(self, seconds);
    } while (status == PY_LOCK_FAILURE && __atomic_load_n(&pulse->beats, __ATOMIC_RELAXED) != before);
    Py_END_ALLOW_THREADS
    self->shut |= status == PY_LOCK_ACQUIRED;
    return PyLong_FromLong(before);
}

static PyObject *
gate_open(Gate *self, PyObject *Py_UNUSED(ignored))
{
    if (self->shut) {
        self->shut = 0;
        PyThread_release_lock(self->lock);
    }
    Py_RETURN_NONE;
}

static PyMethodDef gate_methods[] = {
    {"sleep", (PyCFunction)gate_sleep, METH_VARARGS, NULL},
    {"watch", (PyCFunction)gate_watch, METH_VARARGS, NULL},
    {"open", (PyCFunction)gate_open, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot gate_slots[] = {
    {Py_tp_new, gate_new}, {Py_tp_dealloc, gate_dealloc}, {Py_tp_methods, gate_methods}, {0, NULL},
};

static PyType_Spec gate_spec = {"simplesockets._speedups.Gate", sizeof(Gate), 0, Py_TPFLAGS_DEFAULT, gate_slots};

/* ------------------------------------------------------------------------------------------------------ serve */

static int
leads(PyObject *lot, PyObject *term)
{
    PyObject *leader = PyObject_GetAttr(lot, name__leader);
    int same = leader == NULL ? -1 : leader == term;
    Py_XDECREF(leader);
    return same;
}

static int
succeeded(PyObject *result) /* takes the reference */
{
    Py_XDECREF(result);
    return result != NULL;
}

static int
serve_one(PyObject *lot, PyObject *term, PyObject *parked, PyObject *event, PyObject *usual)
{
    PyObject *odd = PyObject_GetAttr(parked, name_odd);
    int special = odd == NULL ? -1 : odd != Py_False ? 1 : PyObject_RichCompareBool(event, usual, Py_NE);
    Py_XDECREF(odd);
    if (special < 0)
        return 0;
    if (special) {
        PyObject *timed = PyObject_IsTrue(usual) ? Py_False : Py_True;
        return succeeded(PyObject_CallMethodObjArgs(lot, name__serve_odd, term, parked, event, timed, NULL));
    }
    PyObject *step = PyObject_GetAttr(parked, name_step), *outcome = NULL;
    if (step != NULL && PyCFunction_Check(step) && PyCFunction_GET_FUNCTION(step) == (PyCFunction)stepper_step)
        outcome = stepper_step((Stepper *)PyCFunction_GET_SELF(step), NULL);
    else if (step != NULL)
        outcome = PyObject_CallNoArgs(step);
    Py_XDECREF(step);
    if (outcome == NULL || outcome == more)
        return succeeded(outcome);
    int good = succeeded(PyObject_CallMethodObjArgs(lot, name__stepped, parked, outcome, NULL));
    Py_DECREF(outcome);
    return good;
}

static int
serve_all(PyObject *lot, PyObject *term, PyObject *events, PyObject *usual, PyObject *parked_at, Pulse *pulse)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(events); i++) {
        PyObject *pair = PyList_GET_ITEM(events, i);
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "events are pairs of descriptor and event");
            return 0;
        }
        PyObject *fd = PyTuple_GET_ITEM(pair, 0);
        pulse->beats++;
        PyObject *parked = PyDict_GetItemWithError(parked_at, fd);
        if (parked == NULL) {
            if (PyErr_Occurred() || !succeeded(PyObject_CallMethodObjArgs(lot, name__not_parked, term, fd, NULL)))
                return 0;
            continue;
        }
        Py_INCREF(parked);
        int goes_on = PyObject_SetAttr(term, name_serving, parked) < 0 ? -1 : leads(lot, term);
        if (goes_on > 0 && !serve_one(lot, term, parked, PyTuple_GET_ITEM(pair, 1), usual))
            goes_on = -1;
        Py_DECREF(parked);
        if (goes_on <= 0)
            return goes_on == 0;
    }
    return 1;
}

static PyObject *
serve(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *lot, *term, *events, *usual;
    if (!PyArg_ParseTuple(args, "OOO!O:serve", &lot, &term, &PyList_Type, &events, &usual))
        return NULL;
    PyObject *parked_at = PyObject_GetAttr(lot, name__parked), *pulse = PyObject_GetAttr(lot, name__pulse);
    int good = parked_at != NULL && pulse != NULL;
    if (good && !(PyDict_CheckExact(parked_at) && Py_IS_TYPE(pulse, pulse_type))) {
        PyErr_SetString(PyExc_TypeError, "a dictionary and a pulse are needed");
        good = 0;
    }
    good = good && serve_all(lot, term, events, usual, parked_at, (Pulse *)pulse);
    Py_XDECREF(parked_at);
    Py_XDECREF(pulse);
    if (!good || PyObject_SetAttr(term, name_serving, Py_None) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ----------------------------------------------------------------------------------------------------- module */

static PyObject *
use(PyObject *Py_UNUSED(module), PyObject *args)
{
    if (!PyArg_ParseTuple(args, "OOOO:use", &more, &paused, &nothing, &done))
        return NULL;
    Py_INCREF(more);
    Py_INCREF(paused);
    Py_INCREF(nothing);
    Py_INCREF(done);
    Py_RETURN_NONE;
}

static int
find_socket_method(PyObject *type, const char *name, PyCFunction *found)
{
    PyObject *method = PyObject_GetAttrString(type, name);
    if (method == NULL)
        return -1;
    if (!Py_IS_TYPE(method, &PyMethodDescr_Type)) {
        PyErr_Format(PyExc_ImportError, "sockets have another %s() here", name);
        Py_DECREF(method);
        return -1;
    }
    *found = ((PyMethodDescrObject *)method)->d_method->ml_meth;
    Py_DECREF(method);
    return 0;
}

static int
find_socket_methods(void)
{
    PyObject *sockets = PyImport_ImportModule("_socket");
    PyObject *type = sockets == NULL ? NULL : PyObject_GetAttrString(sockets, "socket");
    int failed = type == NULL || find_socket_method(type, "recv", &socket_recv) < 0 ||
                 find_socket_method(type, "send", &socket_send) < 0 ||
                 find_socket_method(type, "fileno", &socket_fileno) < 0;
    Py_XDECREF(type);
    Py_XDECREF(sockets);
    return failed ? -1 : 0;
}

static PyMethodDef module_methods[] = {
    {"use", use, METH_VARARGS, "use(more, paused, nothing, done): the outcomes that a step gives."},
    {"serve", serve, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "_speedups", "See hotpath.py.", -1, module_methods, NULL, NULL, NULL, NULL,
};

static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(spec);
    if (type == NULL || PyModule_AddType(module, type) < 0)
        return NULL;
    return type; /* for ever, as the module */
}

PyMODINIT_FUNC
PyInit__speedups(void)
{
#define INTERN(NAME)                                                                                                  \
    if ((name_##NAME = PyUnicode_InternFromString(#NAME)) == NULL)                                                    \
        return NULL;
    NAMES(INTERN)
    if (find_socket_methods() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&module_def);
    if (module == NULL || (lock_type = add_type(module, &lock_spec)) == NULL ||
        add_type(module, &sender_spec) == NULL || add_type(module, &stepper_spec) == NULL ||
        add_type(module, &delivery_spec) == NULL || add_type(module, &gate_spec) == NULL ||
        (pulse_type = add_type(module, &pulse_spec)) == NULL ||
        PyModule_AddIntConstant(module, "REVISION", REVISION) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
